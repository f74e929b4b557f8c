# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pgferry_global_optspecs
    string join \n d/daemon q/quiet v/verbose u/user= R/reboot V/version h/help
end

function __fish_pgferry_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pgferry_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pgferry_using_subcommand
    set -l cmd (__fish_pgferry_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pgferry -n "__fish_pgferry_needs_command" -s u -l user -d 'Become this Unix user after start' -r
complete -c pgferry -n "__fish_pgferry_needs_command" -s d -l daemon -d 'Run in the background'
complete -c pgferry -n "__fish_pgferry_needs_command" -s q -l quiet -d 'Log nothing to standard error'
complete -c pgferry -n "__fish_pgferry_needs_command" -s v -l verbose -d 'Log more; may be repeated'
complete -c pgferry -n "__fish_pgferry_needs_command" -s R -l reboot -d 'Take over from the running process'
complete -c pgferry -n "__fish_pgferry_needs_command" -s V -l version -d 'Show the version, then exit'
complete -c pgferry -n "__fish_pgferry_needs_command" -s h -l help -d 'Print help'
complete -c pgferry -n "__fish_pgferry_needs_command" -a "check" -d 'Say what is wrong with a configuration file'
complete -c pgferry -n "__fish_pgferry_needs_command" -a "ping" -d 'Ask whether a pooler answers'
complete -c pgferry -n "__fish_pgferry_needs_command" -a "demo" -d 'Start a throw-away PostgreSQL, pgferry in front of it, and a little load'
complete -c pgferry -n "__fish_pgferry_using_subcommand check" -l against -d 'Unix socket of a running pgferry, or its directory: what would a reload change?' -r -F
complete -c pgferry -n "__fish_pgferry_using_subcommand check" -s h -l help -d 'Print help'
complete -c pgferry -n "__fish_pgferry_using_subcommand ping" -s h -l help -d 'Print help'
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l port -d 'Port of the pooler; without it, any free one' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l seconds -d 'Stop after so many seconds; without it, run until stopped' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l clients -d 'Clients that send load [default: 20]' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l pg-bin -d 'Directory of PostgreSQL\'s programs; without it, wherever they are found' -r -F
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l replicas -d 'Streaming replicas of the PostgreSQL, on which reads are spread [default: 0]' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l stop-primary-after -d 'Stop the primary so long after the start, as the key s does' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l promote-after -d 'Promote a replica so long after the start, as the key p does' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -l rejoin-after -d 'Make replicas of servers that follow nobody so long after the start, as the key r does' -r
complete -c pgferry -n "__fish_pgferry_using_subcommand demo" -s h -l help -d 'Print help'

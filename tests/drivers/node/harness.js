// What the programs for node share: who a client is, and how its checks are run and reported.
'use strict'

const assert = require('node:assert/strict')

const TIMEOUT = 60000 // milliseconds for a program, which fails then
const LOCK = 4711 // the advisory lock for which all clients compete
const COMMON = 'everybody' // the channel on which all clients listen
const IDENTITY = `
  select session_user::text as session, current_user::text as role, current_setting('app.user_id') as user_id,
         current_setting('TimeZone') as zone, current_setting('work_mem') as memory,
         current_setting('search_path') as path,
         (select min(owner) from item) as owner, (select array_agg(owner) from secret) as secret`
const MY_LOCKS = `
  select array_agg(objid::int) as locks from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()`

/** The settings by which client `number` is told from the others. */
function describe(number) {
  const [zone, memory, path] = [`Etc/GMT+${number}`, `${65 + number}kB`, `c${number}, public`]
  const user = process.env.PGUSER
  return {
    number,
    schema: `c${number}`,
    channel: `channel_${number}`,
    lock: 1000 + number,
    role: ['alice', 'bob'][number % 2],
    settings: [
      `set search_path to ${path}`,
      `set timezone to '${zone}'`,
      `set work_mem to '${memory}'`,
      `set app.user_id to '${number}'`,
    ],
    identity: { session: user, role: user, user_id: `${number}`, zone, memory, path, owner: number, secret: [number] },
  }
}

function expect(what, got, wanted) {
  try {
    assert.deepEqual(got, wanted)
  } catch {
    throw new assert.AssertionError({ message: `${what} is ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}` })
  }
}

/** Fails unless `work` is refused with this SQLSTATE. */
async function refused(code, work) {
  const error = await work.then(() => null, (error) => error)
  if (error?.code !== code) throw error ?? new assert.AssertionError({ message: `${code} was expected` })
}

/** Waits until `met()` holds or 10 s have passed; the caller looks what is the case. */
async function settle(met) {
  for (const deadline = Date.now() + 10000; !met() && Date.now() < deadline; )
    await new Promise((resolve) => setTimeout(resolve, 20))
}

/** A gate that opens when all have come. */
function barrier(parties) {
  let open
  const opened = new Promise((resolve) => (open = resolve))
  return () => (--parties === 0 && open(), opened)
}

/** Runs the program. A client has open, start, identity, finish, close, and checks: methods named check... */
async function run(Client) {
  const [clients, rounds] = process.argv.slice(2).map(Number)
  const failures = new Map()
  const failed = (group, number, error) => {
    const where = error.name === 'AssertionError' ? '' : `${error.name} ${error.code ?? ''} ${place(error)}: `
    const line = `client ${number}: ${where}${error.message.replace(/\s+/g, ' ')}`
    failures.set(group, [...(failures.get(group) ?? []), line])
  }
  const finish = () => {
    for (const [group, [first, ...more]] of failures)
      console.log(`${group}: ${first}${more.length ? ` (and ${more.length} more)` : ''}`)
    process.exit(failures.size ? 1 : 0)
  }
  const at = new Map() // what each client does
  setTimeout(() => {
    const message = `not done after ${TIMEOUT / 1000} s`
    for (const [number, name] of at) failed(name, number, new assert.AssertionError({ message }))
    finish()
  }, TIMEOUT)

  const started = barrier(clients)
  const sent = barrier(clients)
  const live = async (number) => {
    const client = new Client(describe(number))
    at.set(number, 'start')
    await client.open()
    await client.start()
    await started()
    const names = Object.getOwnPropertyNames(Client.prototype).filter((name) => name.startsWith('check'))
    const first = number % names.length // each client begins elsewhere, so that they mix
    for (let turn = 0; turn < rounds; turn++) {
      for (const name of [...names.slice(first), ...names.slice(0, first)]) {
        at.set(number, label(name))
        try {
          await client[name](turn)
          await client.identity()
        } catch (error) {
          failed(label(name), number, error)
          await client.close()
          await client.open()
        }
      }
    }
    at.set(number, 'finish')
    await sent()
    await client.finish()
    await client.close()
    at.delete(number)
  }
  await Promise.all(
    Array.from({ length: clients }, (_, number) =>
      live(number).catch((error) => (failed('run', number, error), finish()))),
  )
  finish()
}

const label = (name) => name.replace('check', '').toLowerCase()
const place = (error) => error.stack?.match(/with-[\w-]+\.js:\d+/)?.[0] ?? ''

module.exports = { COMMON, IDENTITY, LOCK, MY_LOCKS, expect, refused, run, settle }

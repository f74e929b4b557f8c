"use strict";
// Polls the state, keeps the last minutes of it, and draws. Counters come as they are; rates are made here.

const EVERY_MS = 2000;
const DETAILS_EVERY_MS = 6000;
const LONG_IDLE_US = 1e6; // in a transaction
const SAMPLES = 150; // five minutes
const SHORTEST = 30; // a curve begins with room for a minute, and grows to the five
const ROWS = 50; // pools that are drawn

const samples = []; // {at, values: Map(name -> number)}
let last = null; // the state before
let failures = 0;
const eventsSeen = []; // {at, totals: Map(key -> number)}

// Said aloud, because tables that a narrow screen lays out as blocks are none to a screen reader.
const ROLES = { tr: "row", th: "rowheader", td: "cell" };

const $ = (id) => document.getElementById(id);

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  if (ROLES[tag]) node.setAttribute("role", ROLES[tag]);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---- numbers as people read them ----------------------------------------------------------------------------------

function count(n) {
  if (n === null || n === undefined || Number.isNaN(n)) return "–";
  if (n >= 1e9) return (n / 1e9).toFixed(1) + " G";
  if (n >= 1e6) return (n / 1e6).toFixed(1) + " M";
  if (n >= 1e4) return (n / 1e3).toFixed(n >= 1e5 ? 0 : 1) + " k";
  if (n >= 100 || Number.isInteger(n)) return String(Math.round(n));
  return n.toFixed(1);
}

function time(us) {
  if (us === null || us === undefined || Number.isNaN(us)) return "–";
  if (us < 1000) return Math.round(us) + " µs";
  if (us < 1e6) return (us / 1e3).toFixed(us < 1e4 ? 1 : 0) + " ms";
  if (us < 6e7) return (us / 1e6).toFixed(us < 1e7 ? 1 : 0) + " s";
  if (us < 3.6e9) return Math.floor(us / 6e7) + " min " + Math.floor((us % 6e7) / 1e6) + " s";
  if (us < 8.64e10) return Math.floor(us / 3.6e9) + " h " + Math.floor((us % 3.6e9) / 6e7) + " min";
  return Math.floor(us / 8.64e10) + " d " + Math.floor((us % 8.64e10) / 3.6e9) + " h";
}

function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return n.toFixed(unit === 0 || n >= 100 ? 0 : 1) + " " + units[unit];
}

// ---- drawings ------------------------------------------------------------------------------------------------------

function svg(tag, props) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  return node;
}

// A curve of the last minutes; the newest value is always at the right edge.
function spark(name, what, show, kind) {
  const values = samples.map((sample) => sample.values.get(name));
  const known = values.filter((value) => value !== undefined && !Number.isNaN(value));
  const highest = Math.max(0, ...known);
  const label = known.length
    ? `${what}: now ${show(known[known.length - 1])}, highest of the last five minutes ${show(highest)}`
    : `${what}: nothing yet`;
  const graph = svg("svg", { class: "spark" + (kind ? " " + kind : ""), viewBox: "0 0 100 24",
    preserveAspectRatio: "none", role: "img", "aria-label": label });
  const title = svg("title", {});
  title.textContent = label;
  graph.append(title);
  let line = "";
  let first = null;
  let x = 0;
  values.forEach((value, index) => {
    if (value === undefined || Number.isNaN(value)) return;
    x = 100 - (values.length - 1 - index) * (100 / (Math.max(values.length, SHORTEST) - 1));
    const y = highest > 0 ? 23 - (value / highest) * 21 : 23;
    line += (first === null ? "M" : "L") + x.toFixed(2) + " " + y.toFixed(2);
    if (first === null) first = x;
  });
  if (first !== null) {
    graph.append(svg("path", { class: "area", d: `${line}L${x.toFixed(2)} 24L${first.toFixed(2)} 24Z` }));
    graph.append(svg("path", { d: line }));
  }
  return graph;
}

function part(share) {
  const node = el("span");
  node.style.flex = `0 0 ${(Math.min(Math.max(share, 0), 1) * 100).toFixed(1)}%`;
  return node;
}

// How much of a pool is given away, of all that it may have with its reserve.
function saturation(pool) {
  const busy = pool.in_use ?? 0;
  if (!pool.allowed) return [el("span", {}, `${count(busy)} `, el("span", { class: "soft" }, "no limit"))];
  const size = Math.min(pool.size ?? pool.allowed, pool.allowed);
  const reserve = pool.allowed - size;
  const full = busy >= size;
  const kind = busy >= pool.allowed || (full && pool.clients.waiting) ? "bad" : full || busy >= size * 0.8 ? "warn" : "";
  const text = `${busy} of ${size}` + (reserve ? ` + ${reserve}` : "");
  const bar = el("div", { class: "bar " + kind, role: "meter", "aria-valuemin": 0, "aria-valuemax": pool.allowed,
    "aria-valuenow": Math.min(busy, pool.allowed), "aria-label": `servers in use: ${busy} of ${pool.allowed}` });
  bar.append(part(busy / pool.allowed));
  return [el("span", { class: kind }, text), reserve ? el("span", { class: "soft" }, " reserve") : null, bar];
}

function cell(label, content, kind) {
  return el("td", { "data-label": label, class: kind }, ...[content].flat());
}

function two(main, below) {
  return [main, el("div", { class: "soft" }, below)];
}

function poolName(row) {
  if (!row.database && !row.user) return el("span", { class: "soft" }, "before login");
  return el("span", {}, row.database, el("span", { class: "soft" }, " / " + row.user));
}

function clientName(row) {
  const below = [row.address, row.client ? "no. " + row.client : ""].filter(Boolean).join(", ");
  return el("th", { scope: "row" }, row.application || "(no application name)", el("div", { class: "soft" }, below));
}

// ---- what is drawn -------------------------------------------------------------------------------------------------

const key = (row) => row.database + "\u0000" + row.user;

// Rates between two states. A counter that went back belongs to a pool that was made anew.
function measure(state) {
  const values = new Map();
  const before = new Map(last ? last.pools.map((pool) => [key(pool), pool]) : []);
  const seconds = last ? Math.max((state.now_ms - last.now_ms) / 1000, 0.001) : 0;
  const sum = { queries: 0, transactions: 0, query_us: 0, waiting: 0, busy: 0, open: 0, oldest: 0 };
  for (const pool of state.pools) {
    const old = before.get(key(pool));
    const set = (name, value) => values.set(name + "\u0000" + key(pool), value);
    set("waiting", pool.clients.waiting);
    sum.waiting += pool.clients.waiting;
    sum.busy += pool.in_use ?? 0;
    sum.open += Object.values(pool.servers).reduce((a, b) => a + b, 0);
    sum.oldest = Math.max(sum.oldest, pool.oldest_wait_us);
    if (!old) continue;
    const grown = (name) => Math.max(pool[name] - old[name], 0);
    set("queries", grown("queries") / seconds);
    set("took", grown("queries") ? grown("query_us") / grown("queries") : NaN);
    sum.queries += grown("queries");
    sum.transactions += grown("transactions");
    sum.query_us += grown("query_us");
  }
  values.set("waiting", sum.waiting);
  values.set("oldest", sum.oldest);
  values.set("busy", sum.busy);
  values.set("open", sum.open);
  values.set("clients", state.clients + state.logging_in);
  values.set("memory", state.resident_bytes ?? NaN);
  if (last) {
    values.set("queries", sum.queries / seconds);
    values.set("transactions", sum.transactions / seconds);
    values.set("took", sum.queries ? sum.query_us / sum.queries : NaN);
    values.set("cpu", (state.cpu_us - last.cpu_us) / seconds / 1e4);
  }
  samples.push({ at: state.now_ms, values });
  if (samples.length > SAMPLES) samples.shift();
  return values;
}

function drawHeader(state) {
  const pill = $("state");
  let [text, kind] = ["running", "good"];
  if (state.phase !== "running") [text, kind] = ["shutting down", "bad"];
  else if (state.paused) [text, kind] = ["paused", "warn"];
  else if (state.not_ready.length) [text, kind] = ["not ready", "bad"];
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = "pill " + kind;
  document.title = (kind === "good" ? "" : text + " – ") + "pgferry";
  const up = time((state.now_ms - state.started_ms) * 1000);
  $("about").textContent = `${state.version}, up ${up}, ${state.workers.length} workers`;
}

function drawTrouble(state) {
  const lines = state.not_ready.map((why) => {
    const about = why.database ? `Database ${why.database}` : "The whole pooler";
    const text = { "shutting down": `Shutting down: ${state.phase}.`, "paused": "Paused: no server is given to any client.",
      "suspended": "Suspended: no client is served until RESUME.",
      "database paused": `${about} is paused: its clients wait.`,
      "no server reachable": `${about}: no server can be reached.` }[why.reason] || `${about}: ${why.reason}.`;
    return [why.reason.includes("paused") ? "warn" : "bad", text];
  });
  const full = state.pools.filter((pool) => pool.clients.waiting > 0 && pool.oldest_wait_us > 1e6);
  for (const pool of full.slice(0, 3)) {
    lines.push(["warn", `${pool.database} / ${pool.user}: ${count(pool.clients.waiting)} clients wait for a server, ` +
      `the first for ${time(pool.oldest_wait_us)}.`]);
  }
  const clients = state.clients + state.logging_in;
  if (clients >= state.max_clients * 0.9) {
    lines.push(["warn", `${count(clients)} of ${count(state.max_clients)} client connections are taken (max_client_conn).`]);
  }
  const text = JSON.stringify(lines);
  if ($("trouble").dataset.text === text) return; // said once, not every two seconds
  $("trouble").dataset.text = text;
  $("trouble").replaceChildren(...lines.map(([kind, line]) => el("li", { class: kind }, line)));
}

function drawFigures(state, now) {
  const figure = (title, value, unit, graph) => el("div", {}, el("dt", {}, title),
    el("dd", { class: "value" }, value, unit ? el("small", {}, " " + unit) : ""), el("dd", {}, graph));
  const rate = (value) => count(value) + "/s";
  const waits = now.get("waiting") > 0 ? "warn" : "";
  $("figures").replaceChildren(
    figure("Waiting clients", count(now.get("waiting")), now.get("oldest") ? "longest " + time(now.get("oldest")) : "",
      spark("waiting", "waiting clients", count, waits)),
    figure("Servers in use", count(now.get("busy")), "of " + count(now.get("open")) + " open",
      spark("busy", "servers in use", count)),
    figure("Queries", count(now.get("queries")), "/s", spark("queries", "queries", rate)),
    figure("Mean query", time(now.get("took")), "", spark("took", "mean query time", time)),
    figure("Transactions", count(now.get("transactions")), "/s", spark("transactions", "transactions", rate)),
    figure("Clients", count(now.get("clients")), "of " + count(state.max_clients), spark("clients", "clients", count)),
    figure("Processor", now.has("cpu") ? now.get("cpu").toFixed(0) : "–", "% of a core",
      spark("cpu", "processor", (value) => value.toFixed(0) + " %")),
    figure("Memory", bytes(now.get("memory")), "", spark("memory", "memory", bytes)),
  );
}

function drawPools(state, now) {
  const rows = state.pools.slice(0, ROWS).map((pool) => {
    const of = (name) => now.get(name + "\u0000" + key(pool));
    const curve = (name, what, show, kind) => spark(name + "\u0000" + key(pool), what, show, kind);
    const waiting = pool.clients.waiting;
    const latency = pool.latency;
    const waits = latency && latency.waiting.count ? `p95 ${time(latency.waiting.p95_us)}` : "";
    const took = latency && latency.running.count
      ? `p95 ${time(latency.running.p95_us)}, p99 ${time(latency.running.p99_us)}` : "";
    const s = pool.servers;
    const spare = s.idle + s.used;
    const special = [["login", "connecting"], ["tested", "being checked"], ["being_canceled", "being cancelled"]]
      .filter(([name]) => s[name]).map(([name, text]) => `${s[name]} ${text}`).join(", ");
    return el("tr", {},
      el("th", { scope: "row" }, pool.database, el("div", { class: "soft" }, `${pool.user}, ${pool.mode}`)),
      cell("Servers in use", saturation(pool)),
      cell("Waiting clients", [
        el("span", { class: waiting ? "warn" : "" }, count(waiting)),
        el("span", { class: "soft" }, waiting ? ` first ${time(pool.oldest_wait_us)}` : waits ? " " + waits : ""),
        curve("waiting", "waiting clients", count, waiting ? "warn" : "")]),
      cell("Queries", [count(of("queries")) + " /s", curve("queries", "queries a second", count)]),
      cell("Query time", [time(of("took")), el("span", { class: "soft" }, took ? " " + took : ""),
        curve("took", "mean query time", time)]),
      cell("Clients", two(`${count(pool.clients.idle)} idle`, `${count(pool.clients.linked)} linked`)),
      cell("Servers", two(`${count(spare)} free`, `${count(s.active)} active` + (special ? ", " + special : ""))),
    );
  });
  $("pools").querySelector("tbody").replaceChildren(...rows);
  const more = state.pools_in_all - rows.length;
  $("pools").querySelector(".hint").textContent = more > 0
    ? `The ${rows.length} of ${state.pools_in_all} pools that are fullest and longest waited for.`
    : "Fullest and longest waited for first. Curves show the last five minutes; p95 and p99 are of the last period.";
}

// A section is there only while it has something to say.
function drawTable(id, rows) {
  $(id).hidden = !rows.length;
  $(id).querySelector("tbody").replaceChildren(...rows);
}

function drawPins(pins) {
  drawTable("pins", pins.rows.map((row) => el("tr", {}, clientName(row), cell("Pool", poolName(row)),
    cell("For", time(row.age_us), "n"), cell("Because of", row.reasons),
    statement("Statement that began it", row.statement))));
  const more = pins.all - pins.rows.length;
  $("pins").querySelector(".hint").textContent = "Clients that keep their server between transactions" +
    (more > 0 ? `; the ${pins.rows.length} of ${pins.all} that have for longest.` : ".");
}

function statement(label, text) {
  return cell(label, text ? el("code", {}, text) : el("span", { class: "soft" }, "–"), "wide");
}

function drawWaiting(waiting) {
  const rows = waiting.rows.slice(0, 10);
  drawTable("waiting", rows.map((row) => el("tr", {}, clientName(row), cell("Pool", poolName(row)),
    cell("Waits", el("span", { class: "warn" }, time(row.waited_us)), "n"), cell("For", row.waits_for),
    statement("Statement", row.statement))));
  const more = waiting.all - rows.length;
  $("waiting").querySelector(".hint").textContent =
    more > 0 ? `The ${rows.length} of ${waiting.all} that have waited longest.` : "Longest first.";
}

// A row for each who holds others up, those first who wait for nobody themselves: it is they who hold up all the rest.
function byHolder(rows) {
  const key = (row, party) => `${row.database}/${party.pid}`;
  const waits = new Set(rows.filter((row) => row.waiting).map((row) => key(row, row.waiting)));
  const holders = new Map();
  for (const row of rows) {
    const holder = holders.get(key(row, row.blocking)) ?? { row, count: 0, waits: waits.has(key(row, row.blocking)) };
    holder.count += row.waiting ? 1 : 0;
    if (row.waited_us > (holder.row.waited_us ?? 0)) holder.row = row;
    holders.set(key(row, row.blocking), holder);
  }
  return [...holders.values()].sort((a, b) => a.waits - b.waits || b.count - a.count).slice(0, 12);
}

// In PostgreSQL somebody waits for somebody else's lock, or somebody does nothing in a transaction.
function drawBlockers(rows) {
  const known = rows.filter((row) => row.blocking && (row.waiting || row.duration_us > LONG_IDLE_US));
  drawTable("blockers", byHolder(known).map(({ row, count: waiters }) => {
    const by = row.blocking;
    const below = [by.address, by.client ? "no. " + by.client : "not through pgferry", "pid " + by.pid].filter(Boolean);
    const waiting = row.waiting ? [el("span", { class: "warn" }, time(row.waited_us)), " " +
      (row.waiting.application || row.waiting.user || "pid " + row.waiting.pid) +
      (waiters > 1 ? ` and ${waiters - 1} more` : "")] : el("span", { class: "soft" }, "nobody yet");
    return el("tr", {}, el("th", { scope: "row" }, by.application || by.user || "pid " + by.pid,
      el("div", { class: "soft" }, below.join(", "))), cell("Database", row.database), cell("Waits for it", waiting),
      cell("State", two(row.state || "–", row.duration_us === null ? "" : "for " + time(row.duration_us))),
      statement("Its last statement", by.statement));
  }));
}

function drawQueries(queries) {
  drawTable("queries", queries.rows.slice(0, 12).map((row) => el("tr", {},
    el("th", { scope: "row", class: "statement" }, el("code", {}, row.statement)), cell("Pool", poolName(row)),
    cell("Held", time(row.held_us), "n"),
    cell("Share", (100 * row.held_us / Math.max(queries.held_us, 1)).toFixed(0) + " %", "n"),
    cell("Calls", count(row.calls), "n"), cell("Mean", time(row.mean_us), "n"), cell("p95", time(row.p95_us), "n"),
    cell("Rows", count(row.rows), "n"),
    cell("Errors", el("span", { class: row.errors ? "warn" : "soft" }, count(row.errors)), "n"))));
}

function drawAdvice(rows) {
  const kinds = { critical: "bad", warning: "warn" };
  drawTable("advice", rows.map((row) => el("tr", {},
    el("th", { scope: "row" }, row.subject, el("div", { class: kinds[row.severity] ?? "soft" }, row.severity)),
    cell("Advice", row.advice, "wide"), cell("Evidence", el("span", { class: "soft" }, row.evidence), "wide"))));
}

function drawEvents(state) {
  const totals = new Map(state.events.map((row) => [key(row) + "\u0000" + row.reason, row.total]));
  eventsSeen.push({ at: state.now_ms, totals });
  while (eventsSeen[0].at < state.now_ms - EVERY_MS * SAMPLES) eventsSeen.shift();
  const then = eventsSeen[0].totals;
  const rows = state.events.map((row) => {
    const before = then.get(key(row) + "\u0000" + row.reason) ?? 0;
    return { ...row, fresh: Math.max(row.total - before, 0) };
  });
  rows.sort((a, b) => b.fresh - a.fresh || b.total - a.total);
  drawTable("events", rows.slice(0, 20).map((row) => el("tr", {}, el("th", { scope: "row" }, row.reason),
    cell("Pool", poolName(row)), cell("New", el("span", { class: row.fresh ? "warn" : "soft" }, count(row.fresh)), "n"),
    cell("In all", count(row.total), "n"))));
}

function drawDatabases(state) {
  const word = (row) => row.cut_off ? ["bad", "no server reachable"] : row.paused ? ["warn", "paused"]
    : row.disabled ? ["warn", "disabled"] : row.servers ? ["good", "connected"] : ["soft", "not in use"];
  const rank = (row) => (row.cut_off ? 0 : row.paused ? 1 : row.disabled ? 2 : 3);
  const rows = [...state.databases].sort((a, b) => rank(a) - rank(b) || b.clients - a.clients);
  drawTable("databases", rows.slice(0, ROWS).map((row) => {
    const [kind, text] = word(row);
    return el("tr", {}, el("th", { scope: "row" }, row.name),
      cell("Server", row.host ? `${row.host}:${row.port}` : `Unix socket, ${row.port}`),
      cell("Clients", count(row.clients), "n"), cell("Servers", count(row.servers), "n"),
      cell("State", el("span", { class: kind }, text), "wide"));
  }));
}

// Only where requests of some database may go to more than one host.
function drawHosts(hosts) {
  const roles = { primary: "good", standby: "", fenced: "bad", unknown: "warn" };
  const breakers = { closed: "soft", "half-open": "warn", open: "bad" };
  drawTable("hosts", hosts.slice(0, ROWS).map((row) => {
    const lag = row.lag_bytes === null ? "–" : two(time(row.lag_us), bytes(row.lag_bytes));
    const retry = row.breaker !== "closed" && row.retry_us !== null ? `tried again in ${time(row.retry_us)}` : "";
    const why = row.breaker === "closed" ? row.probe_error : [row.breaker_reason, retry].filter(Boolean).join("; ");
    const share = row.read_percent === null ? "" : row.read_percent.toFixed(row.read_percent > 0 && row.read_percent < 10 ? 1 : 0) + " %";
    return el("tr", {},
      el("th", { scope: "row" }, row.host, row.zone ? el("div", { class: "soft" }, row.zone) : null),
      cell("Databases", row.databases.join(", ")),
      cell("Role", el("span", { class: roles[row.role] }, row.role)),
      cell("Lag", row.role === "primary" ? "–" : lag, "n"),
      cell("Breaker", two(el("span", { class: breakers[row.breaker] }, row.breaker), why), "wide"),
      cell("Reads", two(share || "–", count(row.reads)), "n"), cell("At work on", count(row.outstanding), "n"));
  }));
}

function drawQuiet(state) {
  const none = [];
  if (!state.pins.all) none.push("no client keeps its server");
  if (!state.events.length) none.push("nothing was ended, cancelled or refused");
  $("quiet").textContent = none.length ? "Also: " + none.join("; ") + "." : "";
}

function draw(state) {
  const now = measure(state);
  drawHeader(state);
  drawTrouble(state);
  drawFigures(state, now);
  drawPools(state, now);
  drawHosts(state.hosts);
  drawPins(state.pins);
  drawEvents(state);
  drawDatabases(state);
  drawQuiet(state);
  last = state;
}

// ---- polling -------------------------------------------------------------------------------------------------------

async function poll() {
  const fresh = $("fresh");
  try {
    const answer = await fetch("api/state", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error("HTTP " + answer.status);
    const state = await answer.json();
    if (last && state.started_ms !== last.started_ms) { // another process: nothing can be compared
      last = null;
      samples.length = 0;
      eventsSeen.length = 0;
    }
    draw(state);
    failures = 0;
    fresh.textContent = "live, every 2 s";
    fresh.className = "";
  } catch (error) {
    failures += 1;
    if (failures > 1) {
      const since = last ? " for " + time((Date.now() - polledAt) * 1000) : "";
      fresh.textContent = `no answer${since}`;
      fresh.className = "bad";
    }
    console.warn(error);
    setTimeout(poll, EVERY_MS);
    return;
  }
  polledAt = Date.now();
  setTimeout(poll, EVERY_MS);
}
let polledAt = Date.now();
poll();

// Others have to be asked for these.
async function pollDetails() {
  try {
    const answer = await fetch("api/details", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (answer.ok) {
      const details = await answer.json();
      drawAdvice(details.advice);
      drawBlockers(details.blockers);
      drawWaiting(details.waiting);
      drawQueries(details.queries);
    }
  } catch (error) {
    console.warn(error); // the other poll tells
  }
  setTimeout(pollDetails, DETAILS_EVERY_MS);
}
pollDetails();

// postgres (porsager): prepares everything, pipelines, describes first, listens on a connection of its own.
'use strict'

const postgres = require('postgres')
const { COMMON, IDENTITY, LOCK, MY_LOCKS, expect, refused, run, settle } = require('./harness.js')

let holder = null
const sent = []

const connect = (options = {}) =>
  postgres({ max: 1, prepare: true, onnotice: () => {}, host: process.env.PGHOST, port: process.env.PGPORT, ...options })

class Client {
  constructor(me) {
    this.me = me
    this.heard = []
    this.sentToMe = []
  }

  async open() {
    this.sql = connect()
    for (const setting of this.me.settings) await this.sql.unsafe(setting)
  }

  async close() {
    await this.sql.end({ timeout: 5 })
  }

  async start() {
    this.listener = connect()
    for (const channel of [COMMON, this.me.channel])
      await this.listener.listen(channel, (payload) => this.heard.push([channel, payload]))
  }

  async finish() {
    await settle(() => this.heard.length >= sent.length + this.sentToMe.length)
    const on = (wanted) => this.heard.filter(([channel]) => channel === wanted).map(([, payload]) => payload)
    expect('own channel', on(this.me.channel), this.sentToMe)
    expect('common channel', on(COMMON).sort(), [...sent].sort())
    await this.listener.end({ timeout: 5 })
  }

  async identity() {
    expect('identity', { ...(await this.sql.unsafe(IDENTITY, [], { prepare: true }))[0] }, this.me.identity)
  }

  async checkSettings() {
    const { sql } = this
    await sql.begin(async (sql) => {
      await sql`set local work_mem to '1MB'`
      expect('SET LOCAL', (await sql`show work_mem`)[0].work_mem, '1MB')
    })
    await this.identity()
    await sql.begin(async (sql) => {
      await sql`set timezone to 'Asia/Tokyo'`
      throw new RangeError()
    }).catch((error) => {
      if (!(error instanceof RangeError)) throw error
    })
    await this.identity()
    await sql`select set_config('app.note', ${`note ${this.me.number}`}, false)`
    await this.identity()
    expect('set_config', (await sql`select current_setting('app.note') as note`)[0].note, `note ${this.me.number}`)
    await sql`reset app.note`
  }

  async checkStartup() {
    const sql = connect({ connection: { search_path: this.me.schema, 'app.note': 'start', application_name: 'start' } })
    const state = () => sql`select current_setting('app.note') as note, min(owner) as owner from item`
    for (let n = 0; n < 3; n++)
      expect('start-up parameters', { ...(await state())[0] }, { note: 'start', owner: this.me.number })
    await sql.unsafe("set app.note to 'changed'; set search_path to public")
    await sql`reset all`
    expect('RESET ALL', { ...(await state())[0] }, { note: 'start', owner: this.me.number })
    await sql.end()
  }

  async checkRole() {
    const { sql } = this
    await sql.unsafe(`set role ${this.me.role}`)
    for (let n = 0; n < 3; n++) {
      const [row] = await sql`select current_user::text as role, array_agg(owner) as secret from secret`
      expect('SET ROLE', { ...row }, { role: this.me.role, secret: [this.me.number] })
    }
    await sql`reset role`
  }

  async checkTemporary() {
    const { sql } = this
    await sql`create temp table scratch (owner int)`
    await sql`insert into scratch ${sql({ owner: this.me.number })}`
    expect('temporary table', (await sql`select owner from scratch`).map((row) => row.owner), [this.me.number])
    await this.identity()
    await sql`drop table scratch`
  }

  async checkAdvisory() {
    const { sql } = this
    const unlock = async (key) => (await sql`select pg_advisory_unlock(${key}) as done`)[0].done
    await sql.begin((sql) => sql`select pg_advisory_lock(${this.me.lock})`)
    expect('locks of the session', (await sql.unsafe(MY_LOCKS))[0].locks, [this.me.lock])
    expect('unlock', await unlock(this.me.lock), true)
    await sql`select pg_advisory_lock(${LOCK})`
    expect('who else has the lock', holder, null)
    holder = this.me.number
    await this.identity()
    expect('who has the lock', holder, this.me.number)
    holder = null
    expect('unlock', await unlock(LOCK), true)
  }

  async checkCursors() {
    const { sql } = this
    const numbers = Array.from({ length: 100 }, (_, n) => ({ owner: this.me.number, id: n + 1 }))
    const got = []
    for await (const rows of sql`select owner, id from item order by id`.cursor(30)) got.push(...rows)
    expect('cursor', got.map((row) => ({ ...row })), numbers)
    for await (const [row] of sql`select owner, id from item order by id`.cursor()) if (row.id === 3) break
    await this.identity()
    const seen = []
    await sql`select id from item order by id`.forEach((row) => seen.push(row.id))
    expect('row by row', seen.length, 100)
    await sql`declare held cursor with hold for select id from item order by id`
    await this.identity()
    expect('cursor with hold', (await sql`fetch 40 held`).length, 40)
    await sql`close held`
  }

  async checkSqlPrepare() {
    const { sql } = this
    await sql.unsafe(`prepare plan (int) as select ${this.me.number} * 1000 + $1 as n`)
    for (let n = 0; n < 3; n++)
      expect('EXECUTE', (await sql.unsafe(`execute plan (${n})`))[0].n, this.me.number * 1000 + n)
    await sql`deallocate plan`
  }

  async checkPipelines() {
    const { sql } = this
    const ask = (n) => sql`select owner, ${n}::int as n from item where id = 1`
    const answers = await Promise.all(Array.from({ length: 24 }, (_, n) => ask(n)))
    expect('answers', answers.map(([row]) => row.n), Array.from({ length: 24 }, (_, n) => n))
    const mixed = [ask(1), refused('22012', sql`select 1 / ${0}::int`), ask(2), refused('42P01', sql`select * from nil`)]
    const [first, , second] = await Promise.all(mixed)
    expect('around errors', [first[0].n, second[0].n], [1, 2])
    const description = await sql`select owner, ${1}::int as n from item`.describe()
    expect('columns', description.columns.map((column) => column.name), ['owner', 'n'])
  }

  async checkSavepoints() {
    const { sql } = this
    const twice = (sql) => sql`insert into entry (note) values ('kept')`
    const rows = await sql.begin(async (sql) => {
      await twice(sql)
      for (let n = 0; n < 2; n++) await refused('23505', sql.savepoint(twice))
      const rows = await sql`select owner, note from entry`
      await sql`truncate entry`
      return rows
    })
    expect('rows', rows.map((row) => ({ ...row })), [{ owner: this.me.number, note: 'kept' }])
  }

  async checkCopy() {
    const { sql } = this
    const lines = Array.from({ length: 500 }, (_, n) => `${this.me.number}/${n}`)
    const into = await sql`copy entry (note) from stdin`.writable()
    await new Promise((resolve, reject) => into.on('error', reject).on('finish', resolve).end(`${lines.join('\n')}\n`))
    const out = []
    for await (const chunk of await sql`copy (select note from entry order by id) to stdout`.readable()) out.push(chunk)
    expect('rows', Buffer.concat(out).toString().trim().split('\n'), lines)
    await sql`truncate entry`
  }

  async checkDdl(turn) {
    const { sql } = this
    const shape = () => sql`select * from shape`
    let columns
    for (let n = 0; n < 3; n++) columns = (await shape()).columns.length
    await sql.unsafe(`alter table shape add column more_${turn} int default ${turn}`)
    expect('columns', (await shape()).columns.length, columns + 1) // the driver prepares again by itself
    const fresh = connect()
    await fresh.unsafe(this.me.settings[0])
    expect('columns for a new client', (await fresh`select * from shape`).columns.length, columns + 1)
    await fresh.end()
  }

  async checkCurrval() {
    const sql = connect()
    const [{ ticket }] = await sql`select nextval('public.ticket') as ticket`
    for (let n = 0; n < 5; n++)
      expect('currval', (await sql`select currval('public.ticket') as ticket`)[0].ticket, ticket)
    await sql.end()
  }

  async checkNotify(turn) {
    const message = `${this.me.number}:${turn}`
    await this.sql.notify(COMMON, message)
    await this.sql.begin((sql) => sql`select pg_notify(${this.me.channel}, ${message})`)
    sent.push(message)
    this.sentToMe.push(message)
  }
}

run(Client)

// node-postgres: statements with a name, cursors, LISTEN.
'use strict'

const { Client: Connection, Pool } = require('pg')
const Cursor = require('pg-cursor')
const { COMMON, IDENTITY, LOCK, MY_LOCKS, expect, refused, run, settle } = require('./harness.js')

let holder = null // the client that has the common advisory lock
const sent = [] // what was sent on the common channel

class Client {
  constructor(me) {
    this.me = me
    this.heard = []
    this.sentToMe = []
  }

  async open() {
    this.db = new Connection()
    this.db.on('error', () => {}) // the query at hand fails as well
    await this.db.connect()
    for (const setting of this.me.settings) await this.db.query(setting)
  }

  async close() {
    await this.db.end()
  }

  async start() {
    this.listener = new Connection()
    await this.listener.connect()
    this.listener.on('notification', ({ channel, payload }) => this.heard.push([channel, payload]))
    await this.listener.query(`listen ${COMMON}`)
    await this.listener.query(`listen ${this.me.channel}`)
  }

  async finish() {
    await settle(() => this.heard.length >= sent.length + this.sentToMe.length)
    const on = (wanted) => this.heard.filter(([channel]) => channel === wanted).map(([, payload]) => payload)
    expect('own channel', on(this.me.channel), this.sentToMe)
    expect('common channel', on(COMMON).sort(), [...sent].sort())
    await this.listener.end()
  }

  async row(text, values, name) {
    return (await this.db.query({ text, values, name })).rows[0]
  }

  async one(text, values, name) {
    return Object.values(await this.row(text, values, name))[0]
  }

  async identity() {
    expect('identity', { ...(await this.row(IDENTITY, [], 'identity')) }, this.me.identity)
  }

  async transaction(work, end = 'commit') {
    await this.db.query('begin')
    try {
      await work()
    } finally {
      await this.db.query(end)
    }
  }

  async checkSettings() {
    await this.transaction(async () => {
      await this.db.query("set local work_mem to '1MB'")
      expect('SET LOCAL', await this.one('show work_mem'), '1MB')
    })
    await this.identity()
    await this.transaction(() => this.db.query("set timezone to 'Asia/Tokyo'; set app.user_id to '0815'"), 'rollback')
    await this.identity()
    await this.one("select set_config('app.note', $1, false)", [`note ${this.me.number}`])
    await this.identity()
    expect('set_config', await this.one('show app.note'), `note ${this.me.number}`)
    await this.db.query('reset app.note')
  }

  async checkStartup() {
    const options = `-c search_path=${this.me.schema} -c app.note=start`
    const db = new Connection({ options, statement_timeout: 20001 + this.me.number, application_name: 'start' })
    await db.connect()
    const state = `select current_setting('app.note') as note, min(owner) as owner,
                          current_setting('statement_timeout') as timeout, current_setting('application_name') as name
                   from item`
    const wanted = { note: 'start', owner: this.me.number, timeout: `${20001 + this.me.number}ms`, name: 'start' }
    for (let n = 0; n < 3; n++) expect('start-up options', { ...(await db.query(state)).rows[0] }, wanted)
    await db.query("set app.note to 'changed'; set search_path to public; set statement_timeout to 0")
    await db.query('reset all')
    expect('RESET ALL', { ...(await db.query(state)).rows[0] }, wanted)
    await db.end()
  }

  async checkRole() {
    await this.db.query(`set role ${this.me.role}`)
    for (let n = 0; n < 3; n++) {
      expect('SET ROLE', await this.one('select current_user::text', [], 'role'), this.me.role)
      expect('row security', await this.one('select array_agg(owner) from secret', [], 'secret'), [this.me.number])
    }
    await this.db.query('reset role')
  }

  async checkTemporary() {
    await this.db.query('create temp table scratch (owner int)')
    await this.db.query('insert into scratch values ($1)', [this.me.number])
    expect('temporary table', await this.one('select array_agg(owner) from scratch'), [this.me.number])
    await this.identity()
    await this.db.query('drop table scratch')
  }

  async checkAdvisory() {
    await this.transaction(() => this.db.query('select pg_advisory_lock($1)', [this.me.lock]))
    expect('locks of the session', await this.one(MY_LOCKS), [this.me.lock])
    expect('unlock', await this.one('select pg_advisory_unlock($1)', [this.me.lock]), true)
    await this.db.query('select pg_advisory_lock($1)', [LOCK])
    expect('who else has the lock', holder, null)
    holder = this.me.number
    await this.identity()
    expect('who has the lock', holder, this.me.number)
    holder = null
    expect('unlock', await this.one('select pg_advisory_unlock($1)', [LOCK]), true)
  }

  async checkCursors() {
    const numbers = Array.from({ length: 100 }, (_, n) => ({ owner: this.me.number, id: n + 1 }))
    const query = 'select owner, id from item where id > $1 order by id'
    await this.transaction(async () => {
      const cursor = this.db.query(new Cursor(query, [0]))
      const got = []
      for (let rows; (rows = await cursor.read(30)).length; ) got.push(...rows)
      expect('cursor', got.map((row) => ({ ...row })), numbers)
    })
    const cursor = this.db.query(new Cursor(query, [0])) // outside a transaction, and not read to its end
    expect('first rows', (await cursor.read(7)).map((row) => ({ ...row })), numbers.slice(0, 7))
    await cursor.close()
    await this.transaction(() => this.db.query('declare held cursor with hold for select id from item order by id'))
    await this.identity()
    expect('cursor with hold', (await this.db.query('fetch 40 held')).rows.length, 40)
    await this.db.query('close held')
  }

  async checkSqlPrepare() {
    await this.db.query(`prepare plan (int) as select ${this.me.number} * 1000 + $1`)
    for (let n = 0; n < 3; n++)
      expect('EXECUTE', await this.one(`execute plan (${n})`), this.me.number * 1000 + n)
    await this.db.query('deallocate plan')
  }

  async checkStatements(turn) {
    for (let n = 0; n < 20; n++) {
      const row = await this.row('select owner, $1::int as n from item where id = $2', [n, n + 1], 'same name')
      expect('named statement', { ...row }, { owner: this.me.number, n })
      // Every client has another text under this name.
      const text = `select ${this.me.number} * 1000 + $1::int as n`
      expect('own text', await this.one(text, [n], 'other text'), this.me.number * 1000 + n)
      expect('without a name', await this.one('select $1::text', [`${n}`]), `${n}`)
    }
    for (let n = 0; n < 3; n++) await refused('22012', this.one('select 1 / $1::int', [0], 'division'))
    expect('after errors', await this.one('select 1 / $1::int', [1], 'division'), 1)
    await refused('42P01', this.one('select * from missing', [], `missing ${turn}`))
    await this.db.query('create table missing (id int)')
    expect('after a failed Parse', (await this.db.query({ text: 'select * from missing', name: `missing ${turn}` })).rows, [])
    await this.db.query('drop table missing')
  }

  async checkDdl(turn) {
    const shape = { text: 'select * from shape', name: 'shape' }
    let columns
    for (let n = 0; n < 3; n++) columns = (await this.db.query(shape)).fields.length
    await this.db.query(`alter table shape add column more_${turn} int default ${turn}`)
    const after = await this.db.query(shape).catch((error) => {
      if (error.code !== '0A000') throw error // direct: node-postgres leaves this to the application
      return this.db.query('select * from shape')
    })
    expect('columns', after.fields.length, columns + 1)
    const fresh = new Connection()
    await fresh.connect()
    await fresh.query(this.me.settings[0])
    expect('columns for a new client', (await fresh.query(shape)).fields.length, columns + 1)
    await fresh.end()
    await this.close() // and so to a connection without the old statement
    await this.open()
  }

  async checkCurrval() {
    const db = new Connection()
    await db.connect()
    const [{ ticket }] = (await db.query("select nextval('public.ticket') as ticket")).rows
    for (let n = 0; n < 5; n++)
      expect('currval', (await db.query("select currval('public.ticket')")).rows[0].currval, ticket)
    await db.end()
  }

  async checkPool() {
    const pool = new Pool({ max: 1 })
    const ask = (n) => pool.query({ name: 'ask', text: 'select $1::int * 2 as n', values: [n] })
    const answers = await Promise.all([1, 2, 3, 4, 5].map(ask))
    expect('answers', answers.map(({ rows }) => rows[0].n), [2, 4, 6, 8, 10])
    await pool.end()
  }

  async checkNotify(turn) {
    const message = `${this.me.number}:${turn}`
    await this.transaction(async () => {
      await this.db.query('select pg_notify($1, $2)', [COMMON, message])
      await this.db.query('select pg_notify($1, $2)', [this.me.channel, message])
    })
    sent.push(message)
    this.sentToMe.push(message)
    await this.transaction(() => this.db.query("select pg_notify($1, 'never')", [this.me.channel]), 'rollback')
  }
}

run(Client)

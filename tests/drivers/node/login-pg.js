// node-pg: one login, in the mode of the first argument; see ../logins.
'use strict'

const { readFileSync } = require('node:fs')
const { Client } = require('pg')

async function main() {
  const client = new Client({
    ssl: { ca: readFileSync(process.env.LOGIN_CA), rejectUnauthorized: true },
    enableChannelBinding: process.argv[2] === 'binding',
    sslnegotiation: process.argv[2] === 'direct' ? 'direct' : 'postgres',
  })
  await client.connect()
  const { rows } = await client.query('select current_user')
  await client.end()
  process.exitCode = rows[0].current_user === 'app' ? 0 : 1
}

main().catch((error) => {
  console.error(error.message)
  process.exitCode = 1
})

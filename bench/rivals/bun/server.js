// An event endpoint as a Bun team would write it: Bun.serve, validation by ajv, NDJSON appended to a file.
//
//   bun server.js PORT SCHEMA FILE
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import Ajv from 'ajv'

const [port, schemaFile, file] = process.argv.slice(2)

// `x-column` is a keyword of the contract that ajv must ignore.
const ajv = new Ajv({ allowUnionTypes: true, keywords: ['x-column'] })
const isEvent = ajv.compile(JSON.parse(readFileSync(schemaFile)))
const isSite = /^[A-Za-z0-9_-]{1,64}$/

// Lines are written in batches of 64 KiB or a tenth of a second.
const out = openSync(file, 'a')
let waiting = ''
function flush() {
  if (waiting) writeSync(out, waiting)
  waiting = ''
}
setInterval(flush, 100)

const headers = { 'Content-Type': 'application/json' }
const bad = (message) => Response.json({ message }, { status: 400 })

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(port),
  routes: {
    '/public/:site/analytics/collect': {
      POST: async (request) => {
        const site = request.params.site
        if (!isSite.test(site)) return bad('Unknown site')
        let event
        try {
          event = await request.json()
        } catch {
          return bad('Invalid JSON')
        }
        if (!isEvent(event)) return bad(ajv.errorsText(isEvent.errors))
        waiting += `{"site_id":"${site}","received_at":${Date.now()},"event":${JSON.stringify(event)}}\n`
        if (waiting.length >= 65536) flush()
        return new Response('{"message":"Event received"}', { status: 201, headers })
      },
    },
  },
})

process.on('SIGTERM', async () => {
  await server.stop()
  flush()
  closeSync(out)
  process.exit(0)
})

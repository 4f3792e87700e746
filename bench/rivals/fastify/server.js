// An event endpoint as a Node team would write it: Fastify, validation by ajv, NDJSON appended to a file.
//
//   node server.js PORT SCHEMA FILE
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import Fastify from 'fastify'

const [port, schemaFile, file] = process.argv.slice(2)

// Lines are written in batches of 64 KiB or a tenth of a second.
const out = openSync(file, 'a')
let waiting = ''
function flush() {
  if (waiting) writeSync(out, waiting)
  waiting = ''
}
setInterval(flush, 100)

const fastify = Fastify({
  // Check types strictly, without ajv's default coercion. `x-column` is a keyword of the contract that ajv must ignore.
  ajv: { customOptions: { coerceTypes: false, allowUnionTypes: true, keywords: ['x-column'] } },
})

// Beacons send JSON as text/plain.
fastify.addContentTypeParser('text/plain', { parseAs: 'string' }, fastify.getDefaultJsonParser('ignore', 'ignore'))

fastify.post('/public/:site/analytics/collect', {
  schema: {
    params: { type: 'object', properties: { site: { type: 'string', pattern: '^[A-Za-z0-9_-]{1,64}$' } } },
    body: JSON.parse(readFileSync(schemaFile)),
    response: { 201: { type: 'object', properties: { message: { type: 'string' } } } },
  },
}, (request, reply) => {
  waiting += `{"site_id":"${request.params.site}","received_at":${Date.now()},"event":${JSON.stringify(request.body)}}\n`
  if (waiting.length >= 65536) flush()
  reply.code(201).send({ message: 'Event received' })
})

process.on('SIGTERM', async () => {
  await fastify.close()
  flush()
  closeSync(out)
  process.exit(0)
})

await fastify.listen({ host: '127.0.0.1', port: Number(port) })

// pg-boss 10 with a pooled nodemailer transport.
//
// Jobs are fetched in batches of 500 by two loops, so that one sends while the other fetches and completes, and
// completed in batches; the transport keeps ten connections open. (boss.work() waits up to half a second between
// batches, which would cost it more.) Templates are JavaScript functions, as fast as templates get.
//
//   node worker.mjs fill DATABASE MESSAGES TEMPLATES | node worker.mjs work DATABASE PORT TEMPLATES [KEY] | node worker.mjs show TEMPLATES

import { readFileSync } from 'node:fs'
import nodemailer from 'nodemailer'
import pg from 'pg'
import PgBoss from 'pg-boss'

const QUEUE = 'mail'
const BATCH = 500
const LOOPS = 2
const CONNECTIONS = 10

const LINES = [
  { title: 'Blanket Linden', note: 'grey, 140 × 200 cm', count: 1, price: '129.00' },
  { title: 'Board Fjord', note: 'oiled oak', count: 2, price: '58.40' },
]

const params = (i) => ({
  name: `Ann ${i}`,
  order: `A-${String(i).padStart(7, '0')}`,
  total: '187.40',
  address: `Market Row ${i % 100}, 10115 Berlin`,
  lines: LINES,
})

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&#34;', "'": '&#39;' }
const escape = (value) => String(value).replace(/[&<>"']/g, (c) => ESCAPES[c])

// Turns the little of jinja2 that the templates use into one JavaScript function.
function compile (source, html) {
  const out = html ? 'e' : 'String'
  let code = 'let s = ""\n'
  const trimmed = source.replace(/\n$/, '').replace(/\s*{%-/g, '{%').replace(/-%}\s*/g, '%}')
  for (const part of trimmed.split(/({%.*?%}|{{.*?}})/s)) {
    if (part.startsWith('{{')) {
      const [name, filter] = part.slice(2, -2).split('|').map((word) => word.trim())
      const path = name.startsWith('line.') ? name : `p.${name}`
      code += `s += ${out}(${path}${filter === 'length' ? '.length' : ''})\n`
    } else if (part.startsWith('{%')) {
      const [word, variable, , list] = part.slice(2, -2).trim().split(/\s+/)
      code += word === 'for' ? `for (const ${variable} of p.${list}) {\n` : '}\n'
    } else {
      code += `s += ${JSON.stringify(part)}\n`
    }
  }
  return new Function('e', 'p', `${code}return s`).bind(null, escape)
}

function templates (folder) {
  const read = (part) => compile(readFileSync(`${folder}/${part}.j2`, 'utf8'), part === 'html')
  return { subject: read('subject'), text: read('text'), html: read('html') }
}

async function fill (boss, messages) {
  await boss.createQueue(QUEUE, { name: QUEUE, policy: 'standard' })
  for (let i = 0; i < messages; i += 1000) {
    const jobs = []
    for (let n = i; n < Math.min(i + 1000, messages); n++) {
      jobs.push({ name: QUEUE, data: { recipient: `user${n}@d${n % 200}.example`, params: params(n) } })
    }
    await boss.insert(jobs)
  }
}

async function work (boss, port, folder, key) {
  const template = templates(folder)
  const transport = nodemailer.createTransport({
    host: '127.0.0.1',
    port,
    secure: false,
    ignoreTLS: true,
    pool: true,
    maxConnections: CONNECTIONS,
    maxMessages: Infinity,
    ...(key && { dkim: { domainName: 'shop.example', keySelector: 'bench', privateKey: readFileSync(key, 'utf8') } }),
  })
  const send = ({ data }) => transport.sendMail({
    from: 'Oak & Wool <orders@shop.example>',
    to: data.recipient,
    envelope: { from: 'bounces@shop.example', to: data.recipient },
    subject: template.subject(data.params),
    text: template.text(data.params),
    html: template.html(data.params),
  })
  const loop = async () => {
    while (true) {
      const jobs = await boss.fetch(QUEUE, { batchSize: BATCH })
      if (!jobs || jobs.length === 0) return
      await Promise.all(jobs.map(send))
      await boss.complete(QUEUE, jobs.map((job) => job.id))
    }
  }
  await Promise.all(Array.from({ length: LOOPS }, loop))
  transport.close()
}

const [action, first, second, third, key] = process.argv.slice(2)
if (action === 'show') {
  const template = templates(first)
  process.stdout.write(JSON.stringify({
    subject: template.subject(params(12345)),
    text: template.text(params(12345)),
    html: template.html(params(12345)),
  }))
} else {
  if (action === 'fill') { // from scratch
    const client = new pg.Client({ connectionString: first })
    await client.connect()
    await client.query('DROP SCHEMA IF EXISTS pgboss CASCADE')
    await client.end()
  }
  const boss = new PgBoss({ connectionString: first, max: 10, supervise: false, schedule: false })
  boss.on('error', (error) => { console.error(error); process.exit(1) })
  await boss.start()
  if (action === 'fill') await fill(boss, Number(second))
  else await work(boss, Number(second), third, key)
  await boss.stop({ graceful: false, wait: true })
}

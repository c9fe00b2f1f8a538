/** What holds at both edges of a node, whatever speaks HTTP there. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { createServer as createHttpsServer, request as httpsRequest } from 'node:https';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { systemClock } from '@sallyport/schema/platform';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeCertificate } from '../kit/certificate.ts';
import { waitFor } from '../kit/condition.ts';
import { httpEngines } from '../kit/config.ts';
import { type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { eventsOf, modern, send } from './requests.ts';

const call = modern('tools/call', { name: 'count', arguments: {} });
const mebibyte = 1024 * 1024;

/** A request as bytes; `lines` come last in its head. */
function raw(
  sent: { readonly body: string; readonly headers: Readonly<Record<string, string>> },
  lines?: string[],
): string {
  const length = [`content-length: ${Buffer.byteLength(sent.body)}`];
  const head = [
    'POST /mcp/open HTTP/1.1',
    'host: 127.0.0.1',
    `authorization: Bearer ${testKey}`,
    'content-type: application/json',
    'accept: application/json, text/event-stream',
    ...Object.entries(sent.headers).map(([name, value]) => `${name}: ${value}`),
    ...(lines ?? length),
  ];
  return `${head.join('\r\n')}\r\n\r\n${sent.body}`;
}

/** A connection to the node that keeps what it is told. */
class Client {
  text = '';
  isClosed = false;
  readonly socket: Socket;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('data', (chunk: Buffer) => (this.text += chunk.toString('latin1')));
    this.socket.on('error', () => undefined);
    this.socket.once('close', () => (this.isClosed = true));
  }

  /** Waits until so many answers are here whole. */
  async answers(count: number): Promise<string[]> {
    return await waitFor(`${count} answers`, () => {
      const found = [...this.text.matchAll(/HTTP\/1\.1 (\d{3})[\s\S]*?\}\}/g)].map(([whole]) => whole);
      return found.length >= count && found;
    });
  }
}

/** An upstream at the level of TCP: answers each request with the bytes it is told. */
async function rawUpstream(
  answer: (request: string, socket: Socket) => void,
): Promise<{ url: string; server: Server }> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => answer(chunk.toString('latin1'), socket));
  });
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`, server };
}

const answered = (text: string, id: unknown = 1): string =>
  JSON.stringify({ jsonrpc: '2.0', id, result: { resultType: 'complete', content: [{ type: 'text', text }] } });
const withLength = (body: string, ...lines: string[]): string =>
  ['HTTP/1.1 200 OK', 'content-type: application/json', `content-length: ${body.length}`, ...lines, '', body].join(
    '\r\n',
  );

describe.each(httpEngines)('with %s', (httpEngine) => {
  let upstream: FakeUpstream;
  let node: PipelineNode;
  const ends: (() => void | Promise<void>)[] = [];

  async function start(more: Partial<TestConfiguration> = {}, url = upstream.url): Promise<PipelineNode> {
    const started = await startPipelineNode({
      servers: [{ slug: 'open', url, tools: fakeTools }],
      grants: [{ server: 'open', tools: ['*'] }],
      httpEngine,
      ...more,
    });
    ends.push(() => started.stop());
    return started;
  }
  const open = (port = node.port): Client => {
    const client = new Client(port);
    ends.push(() => void client.socket.destroy());
    return client;
  };

  beforeEach(async () => {
    upstream = await startFakeUpstream();
    ends.push(() => upstream.stop());
    node = await start();
  });
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });

  test('requests sent ahead are answered in their order, on one connection', async () => {
    const slow = modern('tools/call', { name: 'slow', arguments: { delayMs: 50 } }, 'first');
    const second = modern('tools/call', { name: 'count', arguments: {} }, 'second');
    const client = open();
    client.socket.write(raw(slow) + raw(second) + raw({ ...call, body: '{' }));
    const ids = (await client.answers(3)).map((answer) => /"id":("?\w+"?)/.exec(answer)?.[1]);
    expect(ids).toEqual(['"first"', '"second"', 'null']);
    expect(client.isClosed).toBe(false);
  });

  test('a request that comes byte by byte is one request', async () => {
    const client = open();
    client.socket.setNoDelay(true);
    for (const byte of raw(call)) await new Promise((resolve) => client.socket.write(byte, resolve));
    expect((await client.answers(1))[0]).toContain('executed undefined');
    expect(upstream.requests[0]?.body).toBe(call.body);
  });

  test('a body in chunks, with extensions and trailers, arrives whole, and the next request is its own', async () => {
    const client = open();
    const [one, two] = [call.body.slice(0, 7), call.body.slice(7)];
    const chunk = (text: string): string => `${text.length.toString(16)};a=b\r\n${text}\r\n`;
    const body = `${chunk(one)}${chunk(two)}0\r\nx-trailer: 1\r\n\r\n`;
    client.socket.write(raw({ ...call, body }, ['transfer-encoding: chunked']) + raw(call));
    await client.answers(2);
    expect(upstream.requests.map((request) => request.body)).toEqual([call.body, call.body]);
  });

  test('whoever asks whether to send a body is told to go on', async () => {
    const client = open();
    const [head = '', body = ''] = raw(call, [`content-length: ${call.body.length}`, 'expect: 100-continue']).split(
      '\r\n\r\n',
    );
    client.socket.write(`${head}\r\n\r\n`);
    await waitFor('the interim answer', () => client.text === 'HTTP/1.1 100 Continue\r\n\r\n');
    client.socket.write(body);
    expect((await client.answers(1))[0]).toContain('executed undefined');
  });

  test('whoever is refused before it was told to send its body is asked for no further request', async () => {
    const client = open();
    const lines = [`content-length: ${call.body.length}`, 'expect: 100-continue'];
    const head = raw({ ...call, body: '' }, lines).replace('application/json', 'text/plain');
    client.socket.write(head);
    await client.answers(1);
    expect(client.text).toMatch(/HTTP\/1\.1 415 /);
    // Whether it sends the body yet, or goes on with its next request, is for nobody to guess.
    if (!client.text.startsWith('HTTP/1.1 100 ')) await waitFor('the connection closes', () => client.isClosed);
  });

  test('a connection ends where any of several headers says so', async () => {
    const client = open();
    const lines = [`content-length: ${call.body.length}`, 'connection: keep-alive', 'connection: close'];
    client.socket.write(raw(call, lines) + raw(call));
    await waitFor('the connection closes', () => client.isClosed);
    expect((await client.answers(1))[0]).toMatch(/\r\nconnection: close\r\n/i);
    expect(upstream.requests).toHaveLength(1);
  });

  test('a body that is refused unread does not spoil the next request', async () => {
    const client = open();
    const foreign = raw({ ...call, body: 'x'.repeat(60_000) }).replace(testKey, 'sp_a_key_that_does_not_exist');
    client.socket.write(foreign + raw(call));
    const statuses = (await client.answers(2)).map((answer) => answer.slice(9, 12));
    expect(statuses).toEqual(['400', '200']);
  });

  test.each([
    ['a request within a body that is refused', ['content-length: 4', 'transfer-encoding: chunked'], '0\r\n\r\nGET'],
    ['two lengths', ['content-length: 0', 'content-length: 44'], ''],
    ['a list of lengths', ['content-length: 0, 44'], ''],
    ['a length with a sign', ['content-length: +44'], ''],
    ['a hexadecimal length', ['content-length: 0x44'], ''],
    ['a space before the colon', ['content-length : 44'], ''],
    ['another coding', ['transfer-encoding: xchunked'], '0\r\n\r\n'],
    ['chunked twice', ['transfer-encoding: chunked, chunked'], '0\r\n\r\n'],
    ['a coding in a second line', ['transfer-encoding: chunked', 'transfer-encoding: identity'], '0\r\n\r\n'],
    ['a NUL in a header', ['x: a\0b', 'content-length: 0'], ''],
    ['a bare CR in a header', ['x: a\rcontent-length: 44', 'content-length: 0'], ''],
    ['a bare LF in a chunk size', ['transfer-encoding: chunked'], '3\nabc\r\n0\r\n\r\n'],
  ])('%s smuggles nothing to the upstream', async (_what, lines, body) => {
    const client = open();
    client.socket.write(raw({ ...call, body }, lines) + raw(call));
    await waitFor('the connection closes', () => client.isClosed);
    expect(client.text).not.toContain('HTTP/1.1 200');
    expect(upstream.requests).toHaveLength(0);
  });

  test('a header block that does not come is not waited for', async () => {
    const limits = { requestHeadersTimeoutMs: 300, requestBodyTimeoutMs: 300 };
    const impatient = await start({ listener: limits });
    const client = open(impatient.port);
    client.socket.write('POST /mcp/open HTTP/1.1\r\nhost: a');
    await waitFor('the connection closes', () => client.isClosed, { deadlineMs: 15_000 });
    expect(client.text).toMatch(/^HTTP\/1\.1 408 /);
  });

  test.each(['before the answer', 'in a stream'])('a client that goes %s is gone upstream too', async (when) => {
    const tool = when === 'in a stream' ? 'stream' : 'hang';
    const sent = modern('tools/call', { name: tool, arguments: { events: 1_000_000, delayMs: 5 } });
    // Many times, since it must hold wherever the stream stands at that moment.
    for (let n = 1; n <= 20; n++) {
      const client = open();
      client.socket.write(raw(sent));
      await waitFor('the call is upstream', () => upstream.requests.length === n);
      if (tool === 'stream') await waitFor('an event', () => client.text.includes('progress'), { intervalMs: 1 });
      client.socket.destroy();
      expect(await upstream.requests[n - 1]?.closed).toEqual({ answered: false });
    }
    const aborted = (): number =>
      node.records.filter((each) => each.type === 'closed' && each.outcome === 'aborted').length;
    await waitFor('the records', () => aborted() === 20);
  });

  test('a client that goes leaves nothing of the requests that it sent ahead', async () => {
    const hang = modern('tools/call', { name: 'hang', arguments: {} });
    const client = open();
    client.socket.write(raw(hang) + raw(call) + raw(call));
    // One pair looks at each when the one before is answered, the other at once.
    const begun = httpEngine === 'libraries' ? 3 : 1;
    await waitFor('they are upstream', () => upstream.requests.length === begun);
    client.socket.destroy();
    await waitFor('nothing is open', () => node.listener.open === 0);
    await waitFor('each has its end on record', () => node.records.length === 2 * begun);
    expect(node.records.filter(({ type }) => type === 'closed')).toHaveLength(begun);
  });

  test('an upstream that breaks off in a stream ends it with an error, and in a body with another', async () => {
    upstream.intercept((request, response) => {
      if (request.headers['mcp-name'] !== 'count') return false;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n', () =>
        response.destroy(),
      );
      return true;
    });
    expect(eventsOf((await send(node.url('open'), call)).text).at(-1)).toMatchObject({ id: 1, error: { code: 1030 } });
    const cut = await send(node.url('open'), modern('tools/call', { name: 'cut', arguments: {} }));
    expect([cut.status, cut.json.error.code]).toEqual([502, 1030]);
  });

  test('a reader that does not read holds back the upstream, and gets all of it in the end', {
    timeout: 120_000,
  }, async () => {
    const events = 100;
    const event = `data: {"jsonrpc":"2.0","method":"notifications/message","params":"${'x'.repeat(mebibyte)}"}\n\n`;
    let sent = 0;
    const { url, server } = await rawUpstream((_request, socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n');
      const write = (): void => {
        while (sent < events) {
          sent++;
          if (!socket.write(event)) return void socket.once('drain', write);
        }
        socket.end(`data: ${answered('done')}\n\n`);
      };
      write();
    });
    ends.push(() => void server.close());
    const limits = { sseEventBytesMax: 2 * mebibyte };
    const slow = await start({ limits }, url);
    const { headers, body } = call;
    const authorization = { authorization: `Bearer ${testKey}`, 'content-type': 'application/json' };
    const accept = { accept: 'application/json, text/event-stream' };
    const response = await new Promise<import('node:http').IncomingMessage>((resolve, reject) => {
      const options = { method: 'POST', agent: false, headers: { ...headers, ...authorization, ...accept } };
      httpRequest(slow.url('open'), options, resolve).once('error', reject).end(body);
    });
    let before = -1;
    // It stands still where what is in between is full.
    await waitFor('the upstream is held back', () => sent === before || ((before = sent), false), { intervalMs: 300 });
    expect(sent).toBeLessThan(events / 4);
    let received = 0;
    for await (const chunk of response) received += (chunk as Buffer).length;
    expect(received).toBeGreaterThan(events * mebibyte);
    expect(sent).toBe(events);
  });

  test('a node that drains ends what is under way, and takes nothing new', async () => {
    const slow = modern('tools/call', { name: 'slow', arguments: { delayMs: 200 } });
    const [idle, busy] = [open(), open()];
    idle.socket.write(raw(call));
    busy.socket.write(raw(slow));
    await idle.answers(1);
    await waitFor('both are upstream', () => upstream.requests.length === 2);
    node.listener.stopAccepting();
    expect(await node.listener.idle(5_000)).toBe(true);
    expect((await busy.answers(1))[0]).toMatch(/^HTTP\/1\.1 200[\s\S]*connection: close/i);
    await waitFor('both connections close', () => idle.isClosed && busy.isClosed);
    const late = open();
    await waitFor('a new one is refused', () => late.isClosed);
    expect(late.text).toBe('');
  });

  test('all of it holds over TLS', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sallyport-edges-'));
    ends.push(() => rmSync(directory, { recursive: true }));
    const { certFile, keyFile, certificate } = makeCertificate(directory, systemClock.now());
    const tls = await start({ tls: { cert: readFileSync(certFile), key: readFileSync(keyFile) } });
    const ask = (sent: typeof call, onResponse?: (abort: () => void) => void): Promise<string> =>
      new Promise((resolve) => {
        const headers = { ...sent.headers, authorization: `Bearer ${testKey}`, 'content-type': 'application/json' };
        const options = { method: 'POST', ca: certificate, agent: false, headers };
        const request = httpsRequest(tls.url('open').replace('http:', 'https:'), options, (response) => {
          let text = '';
          response.on('data', (chunk: Buffer) => (text += chunk.toString()));
          response.on('error', () => undefined).once('close', () => resolve(text));
          onResponse?.(() => request.destroy());
        });
        request.on('error', () => undefined).end(sent.body);
      });
    expect(await ask(call)).toContain('executed undefined');
    const large = modern('tools/call', { name: 'big', arguments: { bytes: 3 * mebibyte } });
    expect((await ask(large)).length).toBeGreaterThan(3 * mebibyte);
    await ask(modern('tools/call', { name: 'stream', arguments: { events: 1e6, delayMs: 5 } }), (abort) => abort());
    expect(await upstream.requests.at(-1)?.closed).toEqual({ answered: false });
    const plain = open(tls.port);
    plain.socket.write(raw(call));
    await waitFor('who speaks no TLS is sent away', () => plain.isClosed);
    expect(plain.text).not.toContain('HTTP/1.1 200');
  });

  describe('an upstream', () => {
    test('that says more than it was asked does not answer the next call with it', async () => {
      let asked = 0;
      const { url, server } = await rawUpstream((_request, socket) => {
        asked++;
        const more = asked === 1 ? withLength(answered('poisoned')) : '';
        socket.write(withLength(answered(`answer ${asked}`)) + more);
      });
      ends.push(() => void server.close());
      const poisoned = await start({}, url);
      const texts = [];
      for (let n = 0; n < 3; n++) texts.push((await send(poisoned.url('open'), call)).text);
      expect(texts.join()).not.toContain('poisoned');
      expect(texts.at(-1)).toContain('answer');
    });

    test.each([
      ['with two lengths', 'content-length: 3\r\ncontent-length: 200'],
      ['with a length and chunks', 'content-length: 200\r\ntransfer-encoding: chunked'],
      ['with a head without an end', `x: ${'x'.repeat(40_000)}`],
      ['with a folded header', 'x: a\r\n b'],
    ])('that answers %s is not believed', async (_what, lines) => {
      const { url, server } = await rawUpstream((_request, socket) => {
        const body = answered('not this');
        socket.end(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n${lines}\r\n\r\n${body}`);
      });
      ends.push(() => void server.close());
      const doubting = await start({}, url);
      const answer = await send(doubting.url('open'), call);
      expect([answer.status, answer.json.error.code]).toEqual([502, 1030]);
    });

    test('that answers in pieces, in chunks, or until it closes is understood', async () => {
      const body = answered('whole');
      const answers = [
        withLength(body),
        `HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n${withLength(body, 'connection: close')}`,
        `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
        `HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n${body}`,
      ];
      const { url, server } = await rawUpstream((_request, socket) => {
        const [bytes = ''] = answers.splice(0, 1);
        socket.setNoDelay(true);
        const [one, two] = [bytes.slice(0, 30), bytes.slice(30)];
        socket.write(one, () =>
          setImmediate(() => socket.write(two, () => void (/1\.0|close/.test(bytes) && socket.end()))),
        );
      });
      ends.push(() => void server.close());
      const patient = await start({}, url);
      for (let n = 0; n < 4; n++) expect((await send(patient.url('open'), call)).text).toBe(body);
    });

    test('that answers before it took the whole body is not asked again on that connection', async () => {
      const connections = new Set<Socket>();
      const { url, server } = await rawUpstream((request, socket) => {
        connections.add(socket);
        if (!request.startsWith('POST')) return;
        // It reads no further, as one that has no use for the rest.
        socket.pause();
        socket.write(withLength(answered('early')), () => setTimeout(() => socket.resume(), 200));
      });
      ends.push(() => void server.close());
      const early = await start({ limits: { requestBodyBytesMax: 20 * mebibyte } }, url);
      // More than the system takes of what nobody reads.
      const large = modern('tools/call', { name: 'count', arguments: { text: 'x'.repeat(16 * mebibyte) } });
      expect((await send(early.url('open'), large)).status).toBe(200);
      expect((await send(early.url('open'), call)).status).toBe(200);
      expect(connections.size).toBe(2);
    });

    test('that closes each connection without a word fails few calls, and is sent none twice', async () => {
      let asked = 0;
      const { url, server } = await rawUpstream((_request, socket) => {
        asked++;
        socket.end(withLength(answered('once')));
      });
      ends.push(() => void server.close());
      const rude = await start({ egress: { connectionsPerOriginMax: 4 } }, url);
      let failed = 0;
      const ask = async (): Promise<void> => {
        for (let n = 0; n < 25; n++) if ((await send(rude.url('open'), call)).status !== 200) failed++;
      };
      await Promise.all(Array.from({ length: 16 }, ask));
      // The system may report the end of a connection later than the bytes before it; hardly ever, and not for each.
      expect(failed).toBeLessThan(40);
      expect(asked).toBeLessThanOrEqual(400);
    });

    test('that cannot be reached fails each call that waits, however few connections it may have', async () => {
      const few = await start({ egress: { connectionsPerOriginMax: 1 } }, 'http://127.0.0.1:9/mcp');
      const answers = await Promise.all(Array.from({ length: 5 }, () => send(few.url('open'), call)));
      expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 5 }, () => 502));
    });

    test('is dialled at the address that was checked, and a metadata address never', async () => {
      const dialled: string[] = [];
      const named = async (...addresses: string[]): Promise<PipelineNode> =>
        await start(
          {
            egress: {
              resolve: (hostname) => {
                dialled.push(hostname);
                return Promise.resolve(addresses);
              },
            },
          },
          upstream.url.replace('127.0.0.1', 'upstream.example'),
        );
      const good = await named('127.0.0.1');
      expect((await send(good.url('open'), call)).status).toBe(200);
      expect(upstream.requests.at(-1)?.headers.host).toMatch(/^upstream\.example:/);
      const bad = await named('127.0.0.1', '169.254.169.254');
      expect((await send(bad.url('open'), call)).json.error.code).toBe(1030);
      expect(upstream.requests).toHaveLength(1);
      expect(new Set(dialled)).toEqual(new Set(['upstream.example']));
    });

    test('over TLS is called where it shows a trusted certificate for its name, and not otherwise', async () => {
      const directory = mkdtempSync(join(tmpdir(), 'sallyport-edges-'));
      ends.push(() => rmSync(directory, { recursive: true }));
      const { certFile, keyFile, certificate } = makeCertificate(directory, systemClock.now());
      let asked = 0;
      const server = createHttpsServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, (_, response) => {
        asked++;
        response.writeHead(200, { 'content-type': 'application/json' }).end(answered('secured'));
      });
      await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
      ends.push(() => server.close().closeAllConnections());
      const { port } = server.address() as AddressInfo;
      const named = async (name: string): Promise<Awaited<ReturnType<typeof send>>> => {
        const resolve = (): Promise<string[]> => Promise.resolve(['127.0.0.1']);
        const secured = await start({ egress: { resolve } }, `https://${name}:${port}/mcp`);
        return await send(secured.url('open'), call);
      };
      expect((await named('localhost')).json.error.code).toBe(1030);
      const trusted = getCACertificates('default');
      ends.push(() => setDefaultCACertificates(trusted));
      setDefaultCACertificates([...trusted, certificate]);
      expect((await named('upstream.example')).json.error.code).toBe(1030);
      expect(asked).toBe(0);
      expect((await named('localhost')).text).toContain('secured');
    });
  });

  test.each([
    ['an answer', 'big', { bytes: 14 * mebibyte }],
    ['a stream', 'stream', {}],
  ])('a client that takes nothing of %s does not hold it for ever', async (_what, name, args) => {
    const patient = await start({ listener: { untakenMsMax: 200 } });
    upstream.intercept((request, response) => {
      if (request.headers['mcp-name'] !== 'stream') return false;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const event = `data: {"jsonrpc":"2.0","method":"notifications/message","params":"${'x'.repeat(60_000)}"}\n\n`;
      const write = (): void => {
        while (!response.destroyed) if (!response.write(event)) return void response.once('drain', write);
      };
      write();
      return true;
    });
    const client = open(patient.port);
    client.socket.pause();
    client.socket.write(raw(modern('tools/call', { name, arguments: args })));
    await waitFor('the call is upstream', () => upstream.requests.length === 1);
    await waitFor('it is let go', () => patient.listener.open === 0, { deadlineMs: 15_000 });
    const closed = await waitFor('the record', () => patient.records.find(({ type }) => type === 'closed'));
    expect(closed).toMatchObject({ outcome: 'aborted' });
  });
});

/**
 * What reads HTTP here against node:http and undici, which the world has attacked for years: whatever is taken in must be
 * taken in by them too, and mean the same. To take in less is allowed.
 */
import { BlockList, connect, createServer, type AddressInfo } from 'node:net';
import { Connections, LibraryPools, Listener, UpstreamPools, WireListener } from '@sallyport/data-plane';
import { createEgress, createLog, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { testConfig } from '../kit/config.ts';

const log = createLog({ name: 'wire', level: 'silent' });
const seed = testConfig.seed === undefined ? {} : { seed: Number(testConfig.seed) };
const { allow } = parseEgressAllowList('127.0.0.0/8:1-65535');
const egress = createEgress({ allow });
const pools = new UpstreamPools({ egress, connectionsPerOriginMax: 8, clock: systemClock });

/** A listener that only notes what it takes requests for. */
function noting(Kind: typeof Listener | typeof WireListener) {
  const seen: unknown[] = [];
  const answer = { status: 200, headers: [], body: Buffer.from('{}'), follower: null };
  const listener = new Kind({
    host: '127.0.0.1',
    port: 0,
    tls: null,
    limits: {
      requestHeaderBytesMax: 8_192,
      requestHeadersTimeoutMs: 5_000,
      requestBodyTimeoutMs: 5_000,
      requestBodiesBytesMax: 1e6,
      connectionsMax: 100,
      connectionIdleTimeoutMs: 5_000,
    },
    trustedProxies: new BlockList(),
    handle: async (request) => {
      const { method, path, query, headers, repeatedHeaders } = request;
      // As the first stage has it.
      const coding = headers.get('transfer-encoding') ?? 'chunked';
      const body = await Promise.resolve(request.readBody(100_000, 1_000)).catch(() => undefined);
      if (body !== undefined && coding.toLowerCase() === 'chunked') {
        seen.push([
          method,
          path,
          query,
          [...headers].sort(([a], [b]) => (a < b ? -1 : 1)),
          [...repeatedHeaders].sort(),
          body.toString('latin1'),
        ]);
      }
      return answer;
    },
    refuse: () => Promise.resolve({ ...answer, status: 400 }),
    clock: systemClock,
    log,
  });
  return { listener, seen };
}

afterAll(async () => {
  pools.close();
  await egress.close();
});

/** What a listener of its own takes the bytes for, once it has closed the connection or is `done`. */
async function requestsIn(
  Kind: typeof Listener | typeof WireListener,
  bytes: Buffer,
  done: (seen: readonly unknown[]) => boolean,
  patienceMs: number,
): Promise<readonly unknown[]> {
  const { listener, seen } = noting(Kind);
  const port = await listener.listen();
  await new Promise<void>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    const patience = setTimeout(resolve, patienceMs);
    socket.on('data', () => {
      if (done(seen)) resolve();
      patience.refresh();
    });
    socket.on('error', () => undefined);
    socket.once('close', () => {
      clearTimeout(patience);
      resolve();
    });
  });
  listener.close();
  return [...seen];
}

const line = fc.constantFrom(
  'host: a',
  'Host: b',
  'content-length: 4',
  'Content-Length: 0',
  'content-length: 4, 4',
  'content-length: +4',
  'content-length : 4',
  'transfer-encoding: chunked',
  'Transfer-Encoding: Chunked',
  'transfer-encoding: gzip, chunked',
  'transfer-encoding: identity',
  ' transfer-encoding: chunked',
  'transfer-encoding:\tchunked ',
  'connection: close',
  'connection: keep-alive, x',
  'x: 1',
  'x:  2 \t',
  'X: a\u00e9',
  'x;: 1',
  'x-empty:',
  'expect: 100-continue',
);
const first = fc.constantFrom(
  'POST /mcp/a?b=c HTTP/1.1',
  'POST /mcp/a HTTP/1.0',
  'GET /mcp/a HTTP/1.1',
  'DELETE * HTTP/1.1',
  'POST  /mcp/a HTTP/1.1',
  'POST /mcp/a HTTP/1.2',
  'PURGE http://a/mcp/a HTTP/1.1',
);
const body = fc.constantFrom(
  '',
  'abcd',
  '4\r\nabcd\r\n0\r\n\r\n',
  '4;a=b\r\nabcd\r\n0\r\nt: 1\r\n\r\n',
  '2\r\nabcd\r\n',
  'abcdGET / HTTP/1.1\r\n\r\n',
);
const lineBreak = fc.constantFrom('\r\n', '\r\n', '\r\n', '\r\n', '\r\n', '\n', '\r', '\r\r\n', '\r\n ');
const request = fc
  .tuple(first, fc.array(fc.tuple(line, lineBreak), { maxLength: 5 }), body)
  .map(([start, lines, content]) => `${start}\r\n${lines.map(([text, end]) => text + end).join('')}\r\n${content}`);
const bytes = fc
  .tuple(fc.array(request, { minLength: 1, maxLength: 2 }), fc.option(fc.tuple(fc.nat(300), fc.nat(255)), { freq: 4 }))
  .map(([requests, change]) => {
    const whole = Buffer.from(requests.join(''), 'latin1');
    if (change !== null) whole[change[0] % whole.length] = change[1];
    return whole;
  });

/** A request that is only seen late is one that this does not look at; it fails for none. */
async function compare(input: Buffer): Promise<void> {
  const own = await requestsIn(WireListener, input, () => false, 100);
  const theirs = await requestsIn(Listener, input, (seen) => seen.length >= own.length, own.length > 0 ? 10_000 : 0);
  const raw = input.toString('latin1');
  expect({ raw, seen: own }).toEqual({ raw, seen: theirs.slice(0, own.length) });
}

test('no request is taken for another than node:http takes it for, nor where that sees none', {
  timeout: 120_000,
}, async () => {
  const together = fc.array(bytes, { minLength: 40, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(together, (inputs) => Promise.all(inputs.map(compare)).then(() => undefined)),
    { numRuns: 6, endOnFailure: true, ...seed },
  );
});

/** What a client of each kind makes of the bytes that an upstream answers with; null where it fails. */
async function answersTo(raw: string): Promise<unknown[]> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => socket.end(Buffer.from(raw, 'latin1')));
  });
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  const ask = async (connections: Connections): Promise<unknown> => {
    try {
      const response = await connections.send(
        {
          transport: 'streamableHttp',
          credential: null,
          principalId: 'somebody',
          url,
          method: 'POST',
          headers: [],
          body: Buffer.from('{}'),
          firstByteTimeoutMs: 5_000,
          totalTimeoutMs: 5_000,
          beforeWrite: () => undefined,
        },
        null,
      );
      const content = await response.collect({ bytesMax: 1e5, idleTimeoutMs: 5_000 });
      const names = ['content-type', 'content-length', 'transfer-encoding', 'x'];
      return [response.status, names.map((name) => response.header(name)), content.toString('latin1')];
    } catch {
      return null;
    }
  };
  const answers = await Promise.all([ask(new Connections(pools)), ask(new Connections(new LibraryPools(egress)))]);
  server.close();
  return answers;
}

const answerLine = fc.constantFrom(
  'content-type: application/json',
  'content-length: 4',
  'content-length: 0',
  'Content-Length: 5',
  'content-length: 0x4',
  'transfer-encoding: chunked',
  'transfer-encoding: gzip, chunked',
  'x: 1',
  'x: 2',
  ' x: folded',
  'x : 1',
  'connection: close',
);
const answerFirst = fc.constantFrom(
  'HTTP/1.1 200 OK',
  'HTTP/1.1 200',
  'HTTP/1.0 200 OK',
  'HTTP/1.1 204 X',
  'HTTP/2 200',
  'HTTP/1.1 2000 OK',
);
const interim = fc.constantFrom(
  '',
  '',
  'HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n',
  'HTTP/1.1 100 Continue\r\n\r\n',
);
const answer = fc
  .tuple(interim, answerFirst, fc.array(fc.tuple(answerLine, lineBreak), { maxLength: 4 }), body)
  .map(
    ([before, start, lines, content]) =>
      `${before}${start}\r\n${lines.map(([text, end]) => text + end).join('')}\r\n${content}`,
  );

test('no answer of an upstream is taken for another than undici takes it for', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(answer, { minLength: 20, maxLength: 20 }), async (raws) => {
      const answers = await Promise.all(raws.map(answersTo));
      const taken = answers.map(([own, theirs], at) => ({ raw: raws[at], own, theirs }));
      for (const { raw, own, theirs } of taken.filter((each) => each.own !== null)) {
        expect({ raw, own }).toEqual({ raw, own: theirs });
      }
    }),
    { numRuns: 8, endOnFailure: true, ...seed },
  );
});

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Server as TcpServer } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { AppError } from '../errors.ts';
import { createEgress, type Egress, type EgressOptions, parseEgressAllowList } from './guarded-egress.ts';

const egresses: Egress[] = [];

function egressWith(options: Partial<EgressOptions> = {}): Egress {
  const egress = createEgress({ allow: [], connectTimeoutMs: 1_000, ...options });
  egresses.push(egress);
  return egress;
}

function allowed(text: string): EgressOptions['allow'] {
  const { allow, problems } = parseEgressAllowList(text);
  expect(problems).toEqual([]);
  return allow;
}

afterEach(async () => {
  await Promise.all(egresses.splice(0).map((egress) => egress.close()));
});

/** Counts connections to the loopback addresses: what a denied dial must never reach. */
class Sentinel {
  connections = 0;
  port = 0;
  readonly #servers: TcpServer[] = [];

  async start(): Promise<void> {
    for (const host of ['127.0.0.1', '::1']) {
      const server = createTcpServer((socket) => {
        this.connections += 1;
        socket.destroy();
      });
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(this.port, host, resolve);
      });
      this.port = (server.address() as AddressInfo).port;
      this.#servers.push(server);
    }
  }

  stop(): void {
    for (const server of this.#servers) server.close();
  }
}

const sentinel = new Sentinel();
let upstream: Server;
let upstreamPort: number;
const seen: { host: string | undefined; url: string | undefined; body: string }[] = [];

function answer(request: IncomingMessage, response: ServerResponse): void {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    seen.push({ host: request.headers.host, url: request.url, body: Buffer.concat(chunks).toString() });
    if (request.url === '/redirect') {
      response.writeHead(307, { location: `http://127.0.0.1:${sentinel.port}/` }).end('elsewhere');
    } else response.writeHead(200, { 'content-type': 'text/plain' }).end('hello');
  });
}

beforeAll(async () => {
  await sentinel.start();
  upstream = createServer(answer);
  await new Promise<void>((resolve) => {
    upstream.listen(0, '127.0.0.1', resolve);
  });
  upstreamPort = (upstream.address() as AddressInfo).port;
});

afterAll(() => {
  sentinel.stop();
  upstream.closeAllConnections();
  upstream.close();
});

async function refusal(work: Promise<unknown>): Promise<AppError> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof AppError)) throw new Error(`expected an AppError, got ${String(error)}`);
  return error;
}

const closedHosts: readonly (readonly [string, string])[] = [
  ['loopback', '127.0.0.1'],
  ['loopback, another one', '127.8.9.1'],
  ['loopback in short form', '127.1'],
  ['loopback as one number', '2130706433'],
  ['loopback in octal', '0177.0.0.1'],
  ['loopback in hexadecimal', '0x7f.1'],
  ['loopback in full-width digits', '１２７.0.0.1'],
  ['IPv6 loopback', '[::1]'],
  ['IPv6 loopback, long form', '[0:0:0:0:0:0:0:1]'],
  ['unspecified', '0.0.0.0'],
  ['this network', '0.1.2.3'],
  ['IPv6 unspecified', '[::]'],
  ['private 10/8', '10.0.0.1'],
  ['private 172.16/12', '172.31.255.254'],
  ['private 192.168/16', '192.168.1.1'],
  ['carrier-grade NAT', '100.64.0.1'],
  ['link-local', '169.254.1.1'],
  ['multicast', '224.0.0.1'],
  ['broadcast', '255.255.255.255'],
  ['reserved', '240.0.0.1'],
  ['IETF protocol assignments', '192.0.0.8'],
  ['documentation 1', '192.0.2.1'],
  ['documentation 2', '198.51.100.1'],
  ['documentation 3', '203.0.113.1'],
  ['benchmarking', '198.19.0.1'],
  ['unique local', '[fd12:3456::1]'],
  ['IPv6 link-local', '[fe80::1]'],
  ['IPv6 site-local', '[fec0::1]'],
  ['IPv6 multicast', '[ff02::1]'],
  ['IPv6 documentation', '[2001:db8::1]'],
  ['IPv6 documentation, new range', '[3fff::1]'],
  ['IPv6 benchmarking', '[2001:2::1]'],
  ['IPv6 discard', '[100::1]'],
  ['IPv6 outside global unicast', '[4000::1]'],
  ['IPv4-mapped loopback', '[::ffff:127.0.0.1]'],
  ['IPv4-mapped private', '[::ffff:a00:1]'],
  ['IPv4-compatible loopback', '[::127.0.0.1]'],
  ['IPv4-translated loopback', '[::ffff:0:127.0.0.1]'],
  ['NAT64 of loopback', '[64:ff9b::7f00:1]'],
  ['local NAT64', '[64:ff9b:1::808:808]'],
  ['6to4 of loopback', '[2002:7f00:1::1]'],
  ['Teredo', '[2001:0:7f00:1::1]'],
  ['ISATAP of loopback', '[2a00:1450:4001::5efe:127.0.0.1]'],
];

const metadataHosts = [
  '169.254.169.254',
  '169.254.170.2',
  '100.100.100.200',
  '168.63.129.16',
  '192.0.0.192',
  '[fd00:ec2::254]',
  '[::ffff:169.254.169.254]',
  '[::169.254.169.254]',
  '[64:ff9b::a9fe:a9fe]',
  '[2002:a9fe:a9fe::1]',
  '[fd20:ce::254]',
];

describe('a dial [P61]', () => {
  test.each(closedHosts)('to %s (%s) opens no connection', async (_range, host) => {
    const egress = egressWith();
    const before = sentinel.connections;
    const error = await refusal(egress.fetch(`http://${host}:${sentinel.port}/mcp`));
    expect(error.code).toBe('UPSTREAM_UNREACHABLE');
    expect(error.publicMessage).toBe('The MCP server could not be reached.');
    expect(error.message).toContain('denied');
    expect(await egress.check(`http://${host}:${sentinel.port}/mcp`)).toContain('SALLYPORT_EGRESS_ALLOW');
    expect(sentinel.connections).toBe(before);
  });

  test.each(closedHosts)('through a name that resolves to %s (%s) opens no connection', async (_range, host) => {
    const address = new URL(`http://${host}`).hostname.replace(/^\[|\]$/g, '');
    const egress = egressWith({ resolve: () => Promise.resolve([address]) });
    const before = sentinel.connections;
    const error = await refusal(egress.fetch(`https://mcp.example.com:${sentinel.port}/`));
    expect(error).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
    expect(error.publicMessage).not.toContain('example');
    expect(sentinel.connections).toBe(before);
  });

  test.each(metadataHosts)('to the metadata address %s is refused although everything is allowed', async (host) => {
    const egress = egressWith({ allow: allowed('0.0.0.0/0:1-65535,[::]/0:1-65535'), connectTimeoutMs: 300 });
    const error = await refusal(egress.fetch(`http://${host}/latest/meta-data/`));
    expect(error).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
    expect(error.message).toContain('metadata');
    expect(await egress.check(`http://${host}/`)).toContain('never');
  });

  test('to localhost follows the rule for loopback', async () => {
    const before = sentinel.connections;
    for (const host of ['localhost', 'localhost.', 'LOCALHOST']) {
      expect((await refusal(egressWith().fetch(`http://${host}:${sentinel.port}/`))).code).toBe('UPSTREAM_UNREACHABLE');
    }
    expect(sentinel.connections).toBe(before);
    const open = egressWith({ allow: allowed(`127.0.0.0/8:${upstreamPort},[::1]:${upstreamPort}`) });
    expect(await (await open.fetch(`http://localhost:${upstreamPort}/x`)).text()).toBe('hello');
  });

  test('is refused when only one of the resolved addresses is denied', async () => {
    const before = sentinel.connections;
    for (const addresses of [
      ['93.184.215.14', '127.0.0.1'],
      ['::1', '93.184.215.14'],
    ]) {
      const egress = egressWith({ resolve: () => Promise.resolve(addresses) });
      const error = await refusal(egress.fetch(`http://mcp.example.com:${sentinel.port}/`));
      expect(error.message).toContain('denied');
    }
    expect(sentinel.connections).toBe(before);
  });

  test('goes to the address that was checked, whatever a second look-up would say', async () => {
    const answers = [['127.0.0.2'], ['127.0.0.1']];
    let lookups = 0;
    const egress = egressWith({
      allow: allowed(`127.0.0.2/32:${sentinel.port}`),
      connectTimeoutMs: 500,
      resolve: () => Promise.resolve(answers[Math.min(lookups++, 1)] ?? []),
    });
    const before = sentinel.connections;
    // Nobody listens on 127.0.0.2; a second look-up would lead to the sentinel.
    expect((await refusal(egress.fetch(`http://rebind.example:${sentinel.port}/`))).message).toContain(
      'cannot connect',
    );
    expect(lookups).toBe(1);
    expect((await refusal(egress.fetch(`http://rebind.example:${sentinel.port}/`))).message).toContain('denied');
    expect(sentinel.connections).toBe(before);
  });

  test('carries the name in Host, and is checked per connection, not per request', async () => {
    let lookups = 0;
    const egress = egressWith({
      allow: allowed(`127.0.0.1:${upstreamPort}`),
      connectionsPerOriginMax: 1,
      resolve: () => {
        lookups += 1;
        return Promise.resolve(['127.0.0.1']);
      },
    });
    seen.length = 0;
    for (let round = 0; round < 5; round++) {
      const response = await egress.fetch(`http://mcp.example.com:${upstreamPort}/mcp`, { method: 'POST', body: 'x' });
      expect(await response.text()).toBe('hello');
    }
    expect(lookups).toBe(1);
    expect(seen).toHaveLength(5);
    expect(seen[0]).toEqual({ host: `mcp.example.com:${upstreamPort}`, url: '/mcp', body: 'x' });
  });

  test('follows no redirect', async () => {
    const before = sentinel.connections;
    const egress = egressWith({ allow: allowed('127.0.0.1:1-65535') });
    const error = await refusal(egress.fetch(`http://127.0.0.1:${upstreamPort}/redirect`));
    expect(error.code).toBe('UPSTREAM_PROTOCOL');
    const raw = await egress
      .pool(new URL(`http://127.0.0.1:${upstreamPort}`))
      .request({ path: '/redirect', method: 'GET' });
    expect(raw.statusCode).toBe(307);
    await raw.body.dump();
    expect(sentinel.connections).toBe(before);
  });

  test('is bounded in time when the name server does not answer', async () => {
    const egress = egressWith({ connectTimeoutMs: 50, resolve: () => new Promise(() => {}) });
    expect((await refusal(egress.fetch('http://mcp.example.com/'))).code).toBe('UPSTREAM_UNREACHABLE');
  });

  test('through the pool fails with the same error as fetch', async () => {
    const pool = egressWith().pool(new URL(`http://127.0.0.1:${sentinel.port}`));
    const error = await refusal(pool.request({ path: '/', method: 'GET' }));
    expect(error.code).toBe('UPSTREAM_UNREACHABLE');
  });

  test('outside the allowed ports is refused', async () => {
    const egress = egressWith({ allow: allowed(`127.0.0.0/8:${upstreamPort}`) });
    const before = sentinel.connections;
    expect((await refusal(egress.fetch(`http://127.0.0.1:${sentinel.port}/`))).code).toBe('UPSTREAM_UNREACHABLE');
    expect(sentinel.connections).toBe(before);
  });
});

describe('the check of a URL', () => {
  test.each([
    ['ftp://example.com/', 'https://'],
    ['file:///etc/passwd', 'https://'],
    ['example.com/mcp', 'absolute URL'],
    ['http://user:secret@example.com/', 'user name'],
    ['http://user@example.com/', 'user name'],
    ['https://example.com/mcp#part', 'fragment'],
    ['https://example.com/mcp#', 'fragment'],
    ['http://example.com:0/', 'port 0'],
    [`https://example.com/${'a'.repeat(3000)}`, 'at most'],
  ])(
    'refuses %s and names the mend',
    async (url, words) => {
      const egress = egressWith({ resolve: () => Promise.resolve(['93.184.215.14']) });
      expect(await egress.check(url)).toContain(words);
      expect(() => egress.pool(new URL(url))).toThrow(/URL/);
    },
    1_000,
  );

  test('passes public addresses, also through NAT64, and names that do not resolve here', async () => {
    const egress = egressWith({ resolve: () => Promise.reject(new Error('ENOTFOUND')) });
    for (const url of [
      'https://mcp.example.com/mcp?tenant=a',
      'http://93.184.215.14/',
      'https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/',
      'https://[64:ff9b::5db8:d70e]/',
      'https://100.63.255.255/',
      'https://172.32.0.1/',
    ]) {
      expect([url, await egress.check(url)]).toEqual([url, undefined]);
    }
  });

  test('says nothing of the address behind a name', async () => {
    const egress = egressWith({ resolve: () => Promise.resolve(['10.20.30.40']) });
    const problem = await egress.check('http://intranet.example.com:8443/');
    expect(problem).toContain('private');
    expect(problem).toContain(':8443');
    expect(problem).not.toContain('10.20');
  });
});

describe('the allow-list', () => {
  test('is read with ranges, single addresses and both families', () => {
    const { allow, problems } = parseEgressAllowList(
      ' 127.0.0.0/8:3000-4000, 10.1.2.3:443 ,[fd00::/8]:1-65535,[::1]:80,fd00::/8:443,',
    );
    expect(problems).toEqual([]);
    expect(allow.map((entry) => [entry.cidr.prefixLength, entry.portFirst, entry.portLast])).toEqual([
      [8, 3000, 4000],
      [32, 443, 443],
      [8, 1, 65535],
      [128, 80, 80],
      [8, 443, 443],
    ]);
    expect(parseEgressAllowList('').allow).toEqual([]);
  });

  test.each([
    ['10.0.0.0/8', 'CIDR:port'],
    ['example.com:80', 'CIDR:port'],
    ['10.0.0.0/33:80', 'prefix length'],
    ['10.1.2.3/8:80', 'did you mean 10.0.0.0/8'],
    ['10.0.0.0/8:0', 'port'],
    ['10.0.0.0/8:70000', 'port'],
    ['10.0.0.0/8:90-80', 'port'],
    ['169.254.169.254:80', 'never'],
  ])('refuses %s with its mend', (entry, words) => {
    const { problems } = parseEgressAllowList(`127.0.0.1:80,${entry}`);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(`"${entry}"`);
    expect(problems[0]).toContain(words);
  });

  test('opens an embedded address by the entry for the address it stands for', async () => {
    const egress = egressWith({ allow: allowed('127.0.0.0/8:80,10.0.0.0/8:80') });
    expect(await egress.check('http://[::ffff:127.0.0.1]/')).toBeUndefined();
    expect(await egress.check('http://[64:ff9b::a00:1]/')).toBeUndefined();
    expect(await egress.check('http://[::ffff:192.168.0.1]/')).toContain('private');
    // 6to4 stays closed by its own range, whatever it embeds.
    expect(await egress.check('http://[2002:a00:1::1]/')).toContain('6to4');
  });
});

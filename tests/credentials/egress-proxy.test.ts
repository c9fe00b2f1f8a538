import { AppError } from '@sallyport/schema';
import { createEgress, type EgressOptions, parseEgressAllowList, parseEgressProxy } from '@sallyport/schema/platform';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { httpEngines } from '../kit/config.ts';
import { type ConnectProxy, startConnectProxy } from '../kit/connect-proxy.ts';
import { startHarness } from '../kit/harness.ts';
import { connectSdkV2 } from '../kit/mcp-clients.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';

let proxy: ConnectProxy;
const hosts: (string | undefined)[] = [];
const target = createServer(({ headers }, response) => {
  hosts.push(headers.host);
  response.end('hello');
});
let targetPort = 0;

beforeAll(async () => {
  await new Promise<void>((resolve) => target.listen(0, '127.0.0.1', resolve));
  targetPort = (target.address() as AddressInfo).port;
});
afterAll(async () => {
  await new Promise((resolve) => target.close(resolve));
});
beforeEach(async () => {
  hosts.length = 0;
  proxy = await startConnectProxy();
});
afterEach(async () => {
  await proxy.stop();
});

function proxyOf(more: { resolves?: boolean; bypass?: string; credentials?: string } = {}) {
  const url = new URL(proxy.url);
  if (more.credentials !== undefined) [url.username = '', url.password = ''] = more.credentials.split(':');
  const parsed = parseEgressProxy({
    SALLYPORT_EGRESS_PROXY: url.href,
    SALLYPORT_EGRESS_PROXY_RESOLVES: more.resolves === true,
    SALLYPORT_EGRESS_PROXY_BYPASS: more.bypass ?? '',
  });
  expect(parsed.problems).toEqual([]);
  return parsed.proxy;
}

/** To the target by any name, through the proxy. */
async function through<T>(
  options: Omit<EgressOptions, 'allow'>,
  work: (egress: ReturnType<typeof createEgress>) => Promise<T>,
): Promise<T> {
  const { allow } = parseEgressAllowList(`127.0.0.1/32:${targetPort}`);
  const egress = createEgress({
    resolve: () => Promise.resolve(['127.0.0.1']),
    connectTimeoutMs: 2_000,
    allow,
    ...options,
  });
  try {
    return await work(egress);
  } finally {
    await egress.close();
  }
}

const textOf = (url: string) => async (egress: ReturnType<typeof createEgress>) => (await egress.fetch(url)).text();
const refusalOf = (url: string) => (egress: ReturnType<typeof createEgress>) =>
  egress.fetch(url).then(
    () => new Error('it went through'),
    (error: unknown) => error,
  );

describe('the egress proxy', () => {
  test('is given the address that was checked, and the host its own name', async () => {
    expect(await through({ proxy: proxyOf() }, textOf(`http://mcp.example.com:${targetPort}/`))).toBe('hello');
    expect([proxy.asked, hosts]).toEqual([[`127.0.0.1:${targetPort}`], [`mcp.example.com:${targetPort}`]]);
  });

  test('carries TLS with the host itself, whose certificate is checked by its name', async () => {
    const names: string[] = [];
    const server = createTlsServer({
      SNICallback: (name, callback) => {
        names.push(name);
        callback(new Error('no certificate'));
      },
    });
    server.on('tlsClientError', (_error, socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const { allow } = parseEgressAllowList(`127.0.0.1/32:${port}`);
    const egress = createEgress({ allow, proxy: proxyOf(), resolve: () => Promise.resolve(['127.0.0.1']) });
    const error = await refusalOf(`https://mcp.example.com:${port}/`)(egress);
    const dialled = await egress
      .dialler(new URL(`https://mcp.example.com:${port}/`))()
      .catch((thrown: unknown) => thrown);
    await egress.close();
    await new Promise((resolve) => server.close(resolve));
    expect([error, dialled]).toEqual([expect.any(AppError), expect.any(AppError)]);
    expect([names, proxy.asked]).toEqual([
      ['mcp.example.com', 'mcp.example.com'],
      [`127.0.0.1:${port}`, `127.0.0.1:${port}`],
    ]);
  });

  test('that is spoken to over TLS is asked for its own certificate, wherever the connection leads', async () => {
    const names: string[] = [];
    const server = createTlsServer({
      SNICallback: (name, callback) => {
        names.push(name);
        callback(new Error('no certificate'));
      },
    });
    server.on('tlsClientError', (_error, socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    for (const SALLYPORT_EGRESS_PROXY_RESOLVES of [true, false]) {
      const SALLYPORT_EGRESS_PROXY = `https://localhost:${port}`;
      const parsed = parseEgressProxy({ SALLYPORT_EGRESS_PROXY, SALLYPORT_EGRESS_PROXY_RESOLVES });
      const refused = await through(parsed, refusalOf(`http://mcp.example.com:${targetPort}/`));
      expect(refused).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
    }
    await new Promise((resolve) => server.close(resolve));
    expect(names).toEqual(['localhost', 'localhost']);
  });

  test.each([
    ['a private address', 'http://10.0.0.1/', []],
    ['loopback', 'http://127.0.0.1:9999/', []],
    ['a name of a private address', 'http://mcp.example.com/', ['10.0.0.1']],
    ['mixed answers', 'http://mcp.example.com/', ['93.184.215.14', '192.168.0.1']],
    ['a metadata address', 'http://169.254.169.254/', []],
    ['a name of a metadata address', 'http://mcp.example.com/', ['169.254.169.254']],
    ['localhost', 'http://localhost:9999/', ['127.0.0.1']],
    ['a metadata address in IPv6', 'http://[fd00:ec2::254]/', []],
    ['a metadata address within NAT64', 'http://[64:ff9b::a9fe:a9fe]/', []],
  ])('is not asked for %s', async (_what, url, addresses) => {
    const isFound = new URL(url).hostname === 'mcp.example.com';
    for (const resolves of isFound ? [false] : [false, true]) {
      const options = { proxy: proxyOf({ resolves }), resolve: () => Promise.resolve(addresses) };
      expect(await through(options, refusalOf(url))).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
    }
    expect(proxy.asked).toEqual([]);
  });

  test('that resolves is given names, which nobody looks up here, but never one of a metadata service', async () => {
    proxy.resolve = () => '127.0.0.1';
    const resolve = () => Promise.reject(new Error('nobody looks up names here'));
    const options = { proxy: proxyOf({ resolves: true }), resolve };
    const url = `http://mcp.inside.example:${targetPort}/`;
    expect(await through(options, textOf(url))).toBe('hello');
    expect(await through(options, (egress) => egress.check(url))).toBeUndefined();
    for (const name of ['metadata.google.internal', 'Metadata.Google.Internal.', 'metadata', 'instance-data']) {
      expect(await through(options, refusalOf(`http://${name}/`))).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
      expect(await through(options, (egress) => egress.check(`http://${name}/`))).toContain('never');
    }
    expect(proxy.asked).toEqual([`mcp.inside.example:${targetPort}`]);
  });

  test('is bypassed for the hosts that are named, which are checked as ever', async () => {
    const options = { proxy: proxyOf({ resolves: true, bypass: 'MCP.example.com, *.corp.example,10.0.0.1' }) };
    for (const host of ['mcp.example.com', 'a.corp.example', 'b.a.corp.example.']) {
      expect(await through(options, textOf(`http://${host}:${targetPort}/`))).toBe('hello');
    }
    for (const url of [`http://10.0.0.1:${targetPort}/`, 'http://a.corp.example:9999/']) {
      expect(await through(options, refusalOf(url))).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
    }
    expect(proxy.asked).toEqual([]);
    for (const host of ['other.example.com', 'corp.example', 'evilcorp.example']) {
      await through(options, refusalOf(`http://${host}:${targetPort}/`));
    }
    expect(proxy.asked).toHaveLength(3);
  });

  test('is told the credentials, which no error holds', async () => {
    const options = { proxy: proxyOf({ credentials: 'sallyport:pass%40word' }) };
    expect(await through(options, textOf(`http://mcp.example.com:${targetPort}/`))).toBe('hello');
    const basic = Buffer.from('sallyport:pass@word').toString('base64');
    expect(proxy.credentials).toEqual([`Basic ${basic}`]);
    proxy.answer = 'HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n';
    const error = (await through(options, refusalOf(`http://mcp.example.com:${targetPort}/`))) as AppError;
    expect(error).toMatchObject({
      code: 'UPSTREAM_UNREACHABLE',
      publicMessage: 'The MCP server could not be reached.',
    });
    expect(error.message).toContain('407');
    const chain = [error, error.cause, (error.cause as Error | undefined)?.cause].map(String).join();
    for (const secret of ['pass', basic]) expect(chain).not.toContain(secret);
  });

  test.each([
    ['refuses', 'HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n'],
    ['sends people elsewhere', 'HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n'],
    ['says more than that it connected', 'HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi'],
    ['is no proxy', 'SSH-2.0-OpenSSH\r\n'],
    ['says too much', `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`],
    ['says nothing', ''],
  ])('that %s is a failure in time', async (_what, answer) => {
    proxy.answer = answer;
    const options = { proxy: proxyOf(), connectTimeoutMs: 300 };
    expect(await through(options, refusalOf(`http://mcp.example.com:${targetPort}/`))).toMatchObject({
      code: 'UPSTREAM_UNREACHABLE',
      publicMessage: 'The MCP server could not be reached.',
    });
    expect(hosts).toEqual([]);
  });

  test.each([
    [{ SALLYPORT_EGRESS_PROXY: 'proxy:3128' }, 'SALLYPORT_EGRESS_PROXY: must be a URL'],
    [{ SALLYPORT_EGRESS_PROXY: 'socks5://user:hidden@proxy:1080' }, 'SALLYPORT_EGRESS_PROXY: must be a URL'],
    [{ SALLYPORT_EGRESS_PROXY: 'http://proxy:3128/path' }, 'SALLYPORT_EGRESS_PROXY: must be a URL'],
    [{ SALLYPORT_EGRESS_PROXY: 'http://user:hidden%zz@proxy:3128' }, 'must be written as %25'],
    [{ SALLYPORT_EGRESS_PROXY_RESOLVES: true }, 'is of no use without SALLYPORT_EGRESS_PROXY'],
    [{ SALLYPORT_EGRESS_PROXY_BYPASS: 'a.example' }, 'is of no use without SALLYPORT_EGRESS_PROXY'],
    [{ SALLYPORT_EGRESS_PROXY: 'http://proxy:1', SALLYPORT_EGRESS_PROXY_BYPASS: 'a b' }, 'must be hosts'],
  ])('that is configured as %o is refused', (variables, words) => {
    const { problems } = parseEgressProxy(variables);
    expect(problems.join()).toContain(words);
    expect(problems.join()).not.toContain('hidden');
  });
});

describe.each(httpEngines)('with the HTTP engine %s', (engine) => {
  let upstream: EchoUpstream;
  beforeAll(async () => {
    upstream = await startEchoUpstream();
  });
  afterAll(async () => {
    await upstream.stop();
  });

  test('both planes reach a server through the proxy, and not around it', async () => {
    // Nobody but the proxy knows the name.
    proxy.resolve = (host) => (host === 'mcp.inside.example' ? '127.0.0.1' : undefined);
    const { port, pathname } = new URL(upstream.url);
    const environment = {
      SALLYPORT_HTTP_ENGINE: engine,
      SALLYPORT_EGRESS_PROXY: proxy.url,
      SALLYPORT_EGRESS_PROXY_RESOLVES: 'true',
    };
    const harness = await startHarness({ upstreams: [], nodes: 1, environment });
    try {
      const { administrator } = harness;
      const server = await administrator.registerServer('inside', `http://mcp.inside.example:${port}${pathname}`);
      const byControlPlane = proxy.asked.length;
      expect(byControlPlane).toBeGreaterThan(0);
      const account = await administrator.createClient('agent');
      const subject = { kind: 'SERVICE_ACCOUNT', id: account.principalId } as const;
      await administrator.grant({ serverId: server.id, subject, tools: ['echo'] });
      await administrator.converged();
      const client = await connectSdkV2(harness.endpoint('inside', account.key));
      expect(JSON.stringify(await client.callTool('echo', { nonce: 'first' }))).toContain('first');
      expect(proxy.asked.length).toBeGreaterThan(byControlPlane);
      expect(new Set(proxy.asked)).toEqual(new Set([`mcp.inside.example:${port}`]));
      await proxy.stop();
      await expect(client.callTool('echo', { nonce: 'second' })).rejects.toThrow(
        /could not be reached|1502|unreachable/i,
      );
      await client.close();
    } finally {
      await harness.stop();
    }
  }, 60_000);
});

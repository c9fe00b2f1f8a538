import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { UnauthorizedError as UnauthorizedErrorV1 } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { freePort } from '@sallyport/cli';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { hasBinary } from '../kit/binaries.ts';
import { waitFor } from '../kit/condition.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { Person } from '../kit/person.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { ClientProgram, connectProgram, inspectorProgram, mcpRemoteProgram } from './client-programs.ts';
import { SdkLogin, startCallback, startMetadataSite, type TestSite } from './sdk-login.ts';

const canRun =
  hasBinary('chromium', 'chromium', 'logging in with real clients') &&
  hasBinary('openssl', 'openssl', 'a client metadata document over TLS');
const info = { name: 'application', version: '1.0.0' };
const identified = z.object({ id: z.string() });
const tool = 'test_simple_text';
const initialize = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: info };

let reference: ReferenceServer;
let harness: Harness;
let person: Person;
let userId: string;
let callback: TestSite;
let metadataSite: TestSite;
let home: string;
let endpoint: string;
const programs: ClientProgram[] = [];

/** A certificate for 127.0.0.1 that this process, in which the control plane runs too, trusts from now on. */
function trustedCertificate(): { key: string; cert: string } {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-tls-'));
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
  const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
  const made = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  execFileSync('openssl', [...made, '-keyout', key, '-out', cert, ...subject], { stdio: 'ignore' });
  const pair = { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') };
  rmSync(directory, { recursive: true });
  setDefaultCACertificates([...getCACertificates('default'), pair.cert]);
  return pair;
}

async function start(): Promise<void> {
  reference = await startReferenceServer();
  callback = await startCallback();
  metadataSite = await startMetadataSite(trustedCertificate(), callback.url);
  harness = await startHarness({ upstreams: [reference.url, metadataSite.url], authorizationServer: true });
  person = await Person.start();
  home = mkdtempSync(join(tmpdir(), 'sallyport-home-'));
  const { administrator } = harness;
  const server = await administrator.registerServer('reference', reference.url);
  userId = (await administrator.mutate('createUser', { name: 'Ada' }, 'id', identified)).id;
  await administrator.grant({ serverId: server.id, subject: { kind: 'USER', id: userId }, tools: [tool] });
  await administrator.converged();
  endpoint = `${harness.entryOrigin}/mcp/reference`;
}

beforeAll(async () => {
  if (canRun) await start();
}, 120_000);
afterEach(async () => {
  for (const program of programs.splice(0)) await program.stop();
});
afterAll(async () => {
  await person?.close();
  await harness?.stop();
  await reference?.stop();
  await callback?.stop();
  await metadataSite?.stop();
  if (home !== undefined) rmSync(home, { recursive: true, force: true });
});

const code = async (): Promise<string> =>
  (await harness.administrator.mutate('createLoginCode', { userId }, 'code', z.object({ code: z.string() }))).code;

const mayRegister = async (dynamicRegistration: boolean): Promise<void> => {
  const input = { dynamicRegistration };
  await harness.administrator.mutate('updateAuthorizationServer', input, 'dynamicRegistration', z.unknown());
  const issuer = new URL(harness.controlPlane.graphqlUrl ?? '').origin;
  await waitFor('the metadata says so', async () => {
    const metadata = await (await fetch(`${issuer}/.well-known/oauth-authorization-server`)).text();
    return metadata.includes('registration_endpoint') === dynamicRegistration;
  });
};

function run(commandArguments: readonly string[]): ClientProgram {
  const program = new ClientProgram(commandArguments, home);
  programs.push(program);
  return program;
}

/** Connects as an application on SDK v2: refused first, then with what the browser came back with. */
async function connectV2(login: SdkLogin): Promise<{ client: Client; consent: string }> {
  const transport = () => new StreamableHTTPClientTransport(new URL(endpoint), { authProvider: login });
  const first = transport();
  await expect(new Client(info, { versionNegotiation: { mode: 'auto' } }).connect(first)).rejects.toThrow(
    UnauthorizedError,
  );
  const { endedAt, consent } = await person.logIn(login.page ?? '', await code());
  expect(endedAt.searchParams.get('state')).toBe(login.state());
  await first.finishAuth(endedAt.searchParams);
  const client = new Client(info, { versionNegotiation: { mode: 'auto' } });
  await client.connect(transport());
  return { client, consent };
}

const textOf = (result: unknown): string => JSON.stringify(result);

describe.skipIf(!canRun)('logs in end to end and calls what is granted:', () => {
  test('an application on SDK v2, named by its metadata document', async () => {
    await mayRegister(false);
    const login = new SdkLogin(callback.url, metadataSite.url);
    const { client, consent } = await connectV2(login);
    expect(consent).toContain(new URL(callback.url).host);
    expect(consent).toContain(metadataSite.url);
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual([tool]);
    expect(textOf(await client.callTool({ name: tool, arguments: {} }))).toContain('text');
    await client.close();
    const events = await harness.administrator.api.ask(
      '{ auditEvents(first: 50) { edges { node { principal { id clientId tokenId keyId } } } } }',
      {},
      z.looseObject({}),
    );
    expect(JSON.stringify(events)).not.toContain(login.held?.access_token);
    await waitFor('the calls are on record with the client', async () => {
      const { auditEvents } = await harness.administrator.api.ask(
        '{ auditEvents(first: 200) { edges { node { principal { clientId } } } } }',
        {},
        z.object({ auditEvents: z.unknown() }),
      );
      return JSON.stringify(auditEvents).includes(metadataSite.url);
    });
  }, 60_000);

  test('an application on SDK v2 that registers itself, where that is allowed', async () => {
    await mayRegister(false);
    const refused = new SdkLogin(callback.url);
    const transport = new StreamableHTTPClientTransport(new URL(endpoint), { authProvider: refused });
    await expect(new Client(info).connect(transport)).rejects.toThrow('does not support dynamic client registration');
    expect(refused.page).toBeUndefined();
    await mayRegister(true);
    const { client } = await connectV2(new SdkLogin(callback.url));
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual([tool]);
    await client.close();
  }, 60_000);

  test('an application on SDK v1 that registers itself', async () => {
    await mayRegister(true);
    const login = new SdkLogin(callback.url);
    const transport = () => new TransportV1(new URL(endpoint), { authProvider: login as never });
    const first = transport();
    await expect(new ClientV1(info).connect(first as Transport)).rejects.toThrow(UnauthorizedErrorV1);
    const { endedAt } = await person.logIn(login.page ?? '', await code());
    await first.finishAuth(endedAt.searchParams.get('code') ?? '');
    const client = new ClientV1(info);
    await client.connect(transport() as Transport);
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual([tool]);
    await client.close();
  }, 60_000);

  test('MCP Inspector', async () => {
    await mayRegister(true);
    const program = run(inspectorProgram(endpoint, await freePort(), ['--method', 'tools/list']));
    await person.logIn(await program.page(), await code());
    expect(await program.ended()).toBe(0);
    expect(program.output).toContain(tool);
  }, 60_000);

  test('mcp-remote', async () => {
    await mayRegister(true);
    const program = run(mcpRemoteProgram(endpoint, await freePort()));
    program.child.stdin.write(
      `${JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'initialize', params: initialize })}\n`,
    );
    await person.logIn(await program.page(), await code());
    await waitFor('it is initialized', () => program.output.includes('"id":1'));
    program.child.stdin.write('{"jsonrpc":"2.0","method":"notifications/initialized"}\n');
    program.child.stdin.write('{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n');
    await waitFor('the tools are listed', () => program.output.includes('"id":2'));
    expect(program.output).toContain(tool);
  }, 60_000);

  test('sallyport connect, as a client that an administrator registered; what it keeps is its own', async () => {
    await mayRegister(false);
    const registered = { name: 'connect', authentication: 'NONE', redirectUris: ['http://127.0.0.1/callback'] };
    const { client } = await harness.administrator.mutate(
      'createOAuthClient',
      registered,
      'client { id }',
      z.object({ client: identified }),
    );
    const login = run(connectProgram(endpoint, ['--login', '--client-id', client.id]));
    await person.logIn(await login.page(), await code());
    expect([await login.ended(), login.errors]).toEqual([0, expect.stringContaining('Logged in.')]);
    const directory = join(home, 'sallyport', 'credentials');
    const [file = ''] = readdirSync(directory);
    expect(statSync(join(directory, file)).mode & 0o777).toBe(0o600);
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    const [program, ...args] = [process.execPath, ...connectProgram(endpoint, ['--client-id', client.id])];
    const stdio = new Client(info, { versionNegotiation: { mode: 'auto' } });
    const env = { XDG_CONFIG_HOME: home, HOME: home, PATH: '' };
    await stdio.connect(new StdioClientTransport({ command: program, args, env, stderr: 'pipe' }));
    expect((await stdio.listTools()).tools.map(({ name }) => name)).toEqual([tool]);
    await stdio.close();
    // As if its time were up: it is refreshed, and nobody is asked.
    const kept = JSON.parse(readFileSync(join(directory, file), 'utf8')) as { tokens: { access_token: string } };
    const stale = { ...kept, tokens: { ...kept.tokens, access_token: `${kept.tokens.access_token}x` } };
    writeFileSync(join(directory, file), JSON.stringify(stale));
    const again = run(connectProgram(endpoint, ['--client-id', client.id]));
    again.child.stdin.end(`${JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'initialize', params: initialize })}\n`);
    expect(await again.ended()).toBe(0);
    expect(again.errors).toBe('');
    expect(again.output).toContain('"serverInfo"');
    expect(readFileSync(join(directory, file), 'utf8')).not.toContain(stale.tokens.access_token);
    expect(await run(connectProgram(endpoint, ['--forget'])).ended()).toBe(0);
    expect(readdirSync(directory)).toEqual([]);
  }, 60_000);

  test('and whoever denies leaves the client outside', async () => {
    await mayRegister(true);
    const login = run(connectProgram(endpoint, ['--login']));
    const { endedAt } = await person.logIn(await login.page(), await code(), 'Deny');
    expect(endedAt.searchParams.get('error')).toBe('access_denied');
    expect([await login.ended(), login.errors]).toEqual([1, expect.stringContaining('access_denied')]);
  }, 60_000);
});

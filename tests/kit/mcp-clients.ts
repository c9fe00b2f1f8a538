import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { testConfig } from './config.ts';

/** What the tests ask of any client. */
export interface McpClient {
  toolNames(): Promise<readonly string[]>;
  /** The result as the client hands it out; rejects on a JSON-RPC error. */
  callTool(name: string, values?: Readonly<Record<string, unknown>>): Promise<unknown>;
  close(): Promise<void>;
}

export interface Endpoint {
  readonly url: string;
  readonly key: string;
}

const info = { name: 'sallyport-tests', version: '1.0.0' };
const bearer = (key: string) => ({ requestInit: { headers: { authorization: `Bearer ${key}` } } });

/** The official SDK, v1: speaks 2025-11-25 and keeps a session. */
export async function connectSdkV1({ url, key }: Endpoint): Promise<McpClient> {
  const client = new ClientV1(info);
  // The transport's optional members are typed without `exactOptionalPropertyTypes`.
  await client.connect(new TransportV1(new URL(url), bearer(key)) as Transport);
  return {
    toolNames: async () => (await client.listTools()).tools.map(({ name }) => name),
    callTool: (name, values = {}) => client.callTool({ name, arguments: values }),
    close: () => client.close(),
  };
}

/** The official SDK, v2: 2026-07-28 where the server speaks it, else a session of an older revision. */
export async function connectSdkV2({ url, key }: Endpoint): Promise<McpClient> {
  const client = new Client(info, { versionNegotiation: { mode: 'auto' } });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), bearer(key)));
  return {
    toolNames: async () => (await client.listTools()).tools.map(({ name }) => name),
    callTool: (name, values = {}) => client.callTool({ name, arguments: values }),
    close: () => client.close(),
  };
}

const inspectorPackage = createRequire(import.meta.url).resolve('@modelcontextprotocol/inspector/package.json');
const inspector = join(dirname(inspectorPackage), 'clients/launcher/build/index.js');
const inspectorTimeoutMs = 20_000;

function runInspector({ url, key }: Endpoint, parameters: readonly string[]): Promise<unknown> {
  const authorization = ['--header', `Authorization: Bearer ${key}`];
  return new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      [inspector, '--cli', url, '--transport', 'http', ...authorization, ...parameters],
      {
        // It writes a catalog of servers into the home folder otherwise.
        env: { PATH: testConfig.path, HOME: tmpdir(), MCP_CATALOG_PATH: join(tmpdir(), 'sallyport-inspector.json') },
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: inspectorTimeoutMs,
      },
    );
    const output = { stdout: '', stderr: '' };
    child.stdout.on('data', (chunk: Buffer) => {
      output.stdout += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      output.stderr += chunk.toString();
    });
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(JSON.parse(output.stdout));
      else reject(new Error(`the inspector ended with ${String(code)}: ${output.stderr || output.stdout}`));
    });
  });
}

/** The MCP Inspector's command line: a process and a connection per request. */
export function connectInspector(endpoint: Endpoint): Promise<McpClient> {
  return Promise.resolve({
    toolNames: async () => {
      const answer = (await runInspector(endpoint, ['--method', 'tools/list'])) as { tools: { name: string }[] };
      return answer.tools.map(({ name }) => name);
    },
    callTool: (name, values = {}) => {
      const pairs = Object.entries(values).flatMap(([key, value]) => ['--tool-arg', `${key}=${String(value)}`]);
      return runInspector(endpoint, ['--method', 'tools/call', '--tool-name', name, ...pairs]);
    },
    close: () => Promise.resolve(),
  });
}

/** Clients that others made, each in every revision it speaks, behind one face. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createMCPClient, ElicitationRequestSchema } from '@ai-sdk/mcp';
import {
  Client as ModernClient,
  StreamableHTTPClientTransport as ModernHttpTransport,
  type Transport as ModernTransport,
} from '@modelcontextprotocol/client';
import { StdioClientTransport as ModernStdioTransport } from '@modelcontextprotocol/client/stdio';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';
import { repositoryRoot } from '../contract/generated-files.ts';
import { testConfig } from '../kit/config.ts';
import type { Endpoint } from '../kit/mcp-clients.ts';

export type Revision = '2025-11-25' | '2026-07-28';

export const features = ['list', 'call', 'read', 'prompt', 'elicitation', 'progress', 'cancel'] as const;
export type Feature = (typeof features)[number];

export interface CallOptions {
  readonly onProgress?: () => void;
  readonly signal?: AbortSignal;
}

/** A client that is connected. Everything resolves with what the client hands out, and rejects as it does. */
export interface Connected {
  /** The revision it speaks with the endpoint, where it says so. */
  readonly revision: string | undefined;
  listTools(): Promise<readonly string[]>;
  call(name: string, values: Readonly<Record<string, unknown>>, options?: CallOptions): Promise<unknown>;
  read(uri: string): Promise<unknown>;
  prompt(name: string): Promise<unknown>;
  close(): Promise<void>;
}

export interface InteropClient {
  readonly name: string;
  readonly packageName: string;
  readonly revision: Revision;
  /** What it has no means for, with a reason where that is not plain. */
  readonly lacks: readonly Feature[];
  /** @param answer what it accepts with when it is asked */
  connect(endpoint: Endpoint, answer: Answer): Promise<Connected>;
}

export type Answer = Readonly<Record<string, string | boolean>>;

const info = { name: 'interop', version: '1.0.0' };
const capabilities = { elicitation: {} };
const bearer = ({ key }: Endpoint): Record<string, string> => ({ authorization: `Bearer ${key}` });

/** Where a package of these tests is. */
export function packageFolder(name: string): string {
  return join(repositoryRoot(), 'tests/node_modules', name);
}

export function versionOf(packageName: string): string {
  const file = readFileSync(join(packageFolder(packageName), 'package.json'), 'utf8');
  return z.object({ version: z.string() }).parse(JSON.parse(file)).version;
}

async function legacy(transport: Transport, answer: Answer): Promise<Connected> {
  const client = new Client(info, { capabilities });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept', content: { ...answer } }));
  let revision: string | undefined;
  const inner = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (version) => {
    revision = version;
    inner?.(version);
  };
  await client.connect(transport);
  return {
    revision,
    listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: (name, values, { onProgress, signal } = {}) =>
      client.callTool({ name, arguments: values }, undefined, {
        ...(onProgress === undefined ? {} : { onprogress: onProgress }),
        ...(signal === undefined ? {} : { signal }),
      }),
    read: (uri) => client.readResource({ uri }),
    prompt: (name) => client.getPrompt({ name }),
    close: () => client.close(),
  };
}

async function modern(transport: ModernTransport, answer: Answer, mode: 'auto' | 'legacy'): Promise<Connected> {
  const client = new ModernClient(info, { capabilities, versionNegotiation: { mode } });
  client.setRequestHandler('elicitation/create', () => ({ action: 'accept', content: { ...answer } }));
  await client.connect(transport);
  return {
    revision: client.getNegotiatedProtocolVersion(),
    listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: (name, values, { onProgress, signal } = {}) =>
      client.callTool(
        { name, arguments: values },
        {
          ...(onProgress === undefined ? {} : { onprogress: onProgress }),
          ...(signal === undefined ? {} : { signal }),
        },
      ),
    read: (uri) => client.readResource({ uri }),
    prompt: (name) => client.getPrompt({ name }),
    close: () => client.close(),
  };
}

async function aiSdk(endpoint: Endpoint, answer: Answer, discovers: boolean): Promise<Connected> {
  const client = await createMCPClient({
    transport: { type: 'http', url: endpoint.url, headers: bearer(endpoint) },
    capabilities,
    protocolVersionDiscovery: discovers,
  });
  client.onElicitationRequest(ElicitationRequestSchema, () => ({ action: 'accept', content: { ...answer } }));
  return {
    revision: client.initializeResult.protocolVersion,
    listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: (name, values, { signal } = {}) =>
      client.callTool({ name, arguments: { ...values }, ...(signal === undefined ? {} : { options: { signal } }) }),
    read: (uri) => client.readResource({ uri }),
    prompt: (name) => client.getPrompt({ name }),
    close: () => client.close(),
  };
}

const inspector = join(packageFolder('@modelcontextprotocol/inspector'), 'clients/launcher/build/index.js');
const inspectorTimeoutMs = 60_000;

/** A process and a connection per request. */
function inspect(
  endpoint: Endpoint,
  era: 'legacy' | 'modern',
  parameters: readonly string[],
  home: string,
): Promise<unknown> {
  const target = [endpoint.url, '--transport', 'http', '--protocol-era', era];
  const header = ['--header', `Authorization: Bearer ${endpoint.key}`];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [inspector, '--cli', ...target, ...header, '-q', ...parameters], {
      env: { PATH: testConfig.path, HOME: home, MCP_CATALOG_PATH: join(home, 'catalog.json') },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: inspectorTimeoutMs,
    });
    const output = { stdout: '', stderr: '' };
    child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(JSON.parse(output.stdout));
      else reject(new Error(`the inspector ended with ${String(code)}: ${output.stderr || output.stdout}`));
    });
  });
}

function inspectorClient(endpoint: Endpoint, era: 'legacy' | 'modern', home: string): Connected {
  const ask = (...parameters: string[]): Promise<unknown> => inspect(endpoint, era, ['--method', ...parameters], home);
  const listed = z.looseObject({ tools: z.array(z.looseObject({ name: z.string() })) });
  return {
    revision: undefined,
    listTools: async () => listed.parse(await ask('tools/list')).tools.map(({ name }) => name),
    call: (name, values) => ask('tools/call', '--tool-name', name, '--tool-args-json', JSON.stringify(values)),
    read: (uri) => ask('resources/read', '--uri', uri),
    prompt: (name) => ask('prompts/get', '--prompt-name', name),
    close: () => Promise.resolve(),
  };
}

/** `mcp-remote`: speaks stdio to its user, and HTTP to the endpoint. */
function mcpRemote(endpoint: Endpoint, protocol: 'legacy' | 'auto', home: string) {
  const proxy = join(packageFolder('mcp-remote'), 'dist/proxy.js');
  const how = ['--allow-http', '--transport', 'http-only', '--protocol', protocol];
  return {
    command: process.execPath,
    args: [proxy, endpoint.url, ...how, '--header', `Authorization:Bearer ${endpoint.key}`],
    env: { PATH: dirname(process.execPath), HOME: home, MCP_REMOTE_CONFIG_DIR: join(home, 'mcp-remote') },
    stderr: 'pipe' as const,
  };
}

const commandLine: readonly Feature[] = ['elicitation', 'progress', 'cancel'];

/** @param home a folder for what the programs among them write */
export function interopClients(home: string): readonly InteropClient[] {
  return [
    {
      name: 'SDK v1',
      packageName: '@modelcontextprotocol/sdk',
      revision: '2025-11-25',
      lacks: [],
      connect: (to, answer) => {
        const requestInit = { headers: bearer(to) };
        return legacy(new StreamableHTTPClientTransport(new URL(to.url), { requestInit }) as Transport, answer);
      },
    },
    ...(['2025-11-25', '2026-07-28'] as const).map((revision) => ({
      name: 'SDK v2',
      packageName: '@modelcontextprotocol/client',
      revision,
      lacks: [],
      connect: (to: Endpoint, answer: Answer) => {
        const transport = new ModernHttpTransport(new URL(to.url), { requestInit: { headers: bearer(to) } });
        return modern(transport, answer, revision === '2025-11-25' ? 'legacy' : 'auto');
      },
    })),
    ...(['2025-11-25', '2026-07-28'] as const).map((revision) => ({
      name: 'MCP Inspector, command line',
      packageName: '@modelcontextprotocol/inspector',
      revision,
      lacks: commandLine,
      connect: (to: Endpoint) =>
        Promise.resolve(inspectorClient(to, revision === '2025-11-25' ? 'legacy' : 'modern', home)),
    })),
    {
      name: 'mcp-remote',
      packageName: 'mcp-remote',
      revision: '2025-11-25',
      lacks: [],
      connect: (to, answer) => legacy(new StdioClientTransport(mcpRemote(to, 'legacy', home)) as Transport, answer),
    },
    {
      name: 'mcp-remote',
      packageName: 'mcp-remote',
      revision: '2026-07-28',
      lacks: [],
      connect: (to, answer) => modern(new ModernStdioTransport(mcpRemote(to, 'auto', home)), answer, 'auto'),
    },
    ...(['2025-11-25', '2026-07-28'] as const).map((revision) => ({
      name: 'AI SDK',
      packageName: '@ai-sdk/mcp',
      revision,
      lacks: ['progress'] as const,
      connect: (to: Endpoint, answer: Answer) => aiSdk(to, answer, revision === '2026-07-28'),
    })),
  ];
}

/** What a client does in each of the official suite's client scenarios, on the SDK of either revision. */
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from '@modelcontextprotocol/client';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';
import type { Endpoint } from '../kit/mcp-clients.ts';
import type { SuiteRevision } from './run-suite.ts';

const info = { name: 'client-leg', version: '1.0.0' };
const capabilities = { roots: {}, sampling: {}, elicitation: {} };
const requestedSchema = z.looseObject({
  properties: z.record(z.string(), z.looseObject({ default: z.unknown().optional() })),
});

type AnyClient = Client | ModernClient;

/** Accepts with the default of every field that has one, and `true` for the others. */
function answer(params: unknown) {
  const { properties } = requestedSchema.parse((params as { requestedSchema?: unknown }).requestedSchema);
  const content = Object.fromEntries(
    Object.entries(properties).map(([name, field]) => [name, (field.default ?? true) as string | number | boolean]),
  );
  return { action: 'accept' as const, content };
}

async function connect({ url, key }: Endpoint, revision: SuiteRevision): Promise<AnyClient> {
  const requestInit = { headers: { authorization: `Bearer ${key}` } };
  if (revision === '2025-11-25') {
    const client = new Client(info, { capabilities });
    client.setRequestHandler(ElicitRequestSchema, ({ params }) => answer(params));
    await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }) as Transport);
    return client;
  }
  const client = new ModernClient(info, { capabilities, versionNegotiation: { mode: 'auto' } });
  client.setRequestHandler('elicitation/create', ({ params }) => answer(params));
  await client.connect(new ModernTransport(new URL(url), { requestInit }));
  return client;
}

interface Scenario {
  readonly client: AnyClient;
  /** The calls that the suite wants made, where it does. */
  readonly toolCalls: readonly { readonly name: string; readonly arguments: Record<string, unknown> }[];
}

const callsOf = (names: readonly string[], values: Record<string, unknown> = {}) =>
  names.map((name) => ({ name, arguments: values }));

async function call(client: AnyClient, calls: Scenario['toolCalls']): Promise<void> {
  for (const one of calls) await client.callTool(one);
}

/** What is done after connecting. */
const scenarios: Readonly<Record<string, (scenario: Scenario) => Promise<void>>> = {
  initialize: async ({ client }) => void (await client.listTools()),
  'request-metadata': () => Promise.resolve(),
  'json-schema-ref-no-deref': async ({ client }) => void (await client.listTools()),
  tools_call: async ({ client }) => {
    await client.listTools();
    await call(client, callsOf(['add_numbers'], { a: 5, b: 3 }));
  },
  'elicitation-sep1034-client-defaults': async ({ client }) => {
    await client.listTools();
    await call(client, callsOf(['test_client_elicitation_defaults']));
  },
  'sse-retry': async ({ client }) => {
    await client.listTools();
    await call(client, callsOf(['test_reconnection']));
  },
  'sep-2322-client-request-state': async ({ client }) => {
    await client.listTools();
    await call(client, callsOf(['test_mrtr_echo_state', 'test_mrtr_no_state', 'test_mrtr_unrelated']));
    // SDK v2 takes a result without its type for an error, as the revision lets it; asked again it must not be.
    await call(client, callsOf(['test_mrtr_no_result_type'])).catch(() => undefined);
  },
  'http-standard-headers': async ({ client }) => {
    await call(client, callsOf((await client.listTools()).tools.slice(0, 1).map(({ name }) => name)));
    for (const { uri } of (await client.listResources()).resources) await client.readResource({ uri });
    for (const { name } of (await client.listPrompts()).prompts) await client.getPrompt({ name });
  },
  'http-custom-headers': async ({ client, toolCalls }) => {
    await client.listTools();
    await call(client, toolCalls);
  },
  'http-invalid-tool-headers': async ({ client }) => {
    const { tools } = await client.listTools();
    const names = tools.map(({ name }) => name);
    for (const name of names) await call(client, callsOf([name], { region: 'us-west1' })).catch(() => undefined);
  },
  'json-schema-2020-12-preservation': async ({ client }) => {
    const { tools } = await client.listTools();
    const { inputSchema } = tools.find(({ name }) => name === 'json_schema_2020_12_tool') ?? {};
    await call(client, callsOf(['json_schema_echo'], { schema: inputSchema }));
  },
};

const contextSchema = z.object({
  toolCalls: z.array(z.object({ name: z.string(), arguments: z.record(z.string(), z.unknown()) })).default([]),
});

/** Whether a client here knows what to do. */
export function isDriven(scenario: string): boolean {
  return Object.hasOwn(scenarios, scenario);
}

/**
 * Connects, and does what the scenario wants.
 * @param context of the scenario, as the suite hands it out: JSON, or nothing
 * @param onConnected called between the two
 */
export async function driveScenario(
  scenario: string,
  options: {
    readonly endpoint: Endpoint;
    readonly revision: SuiteRevision;
    readonly context: string;
    readonly onConnected: () => void;
  },
): Promise<void> {
  const { toolCalls } = contextSchema.parse(options.context === '' ? {} : JSON.parse(options.context));
  const client = await connect(options.endpoint, options.revision);
  try {
    options.onConnected();
    await scenarios[scenario]?.({ client, toolCalls });
  } finally {
    await client.close();
  }
}

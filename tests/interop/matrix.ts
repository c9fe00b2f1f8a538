/** Each client on each server in each revision it speaks, feature by feature. */
import { waitFor } from '../kit/condition.ts';
import type { Endpoint } from '../kit/mcp-clients.ts';
import { type Connected, type Feature, features, type InteropClient, type Revision } from './clients.ts';
import type { InteropServer } from './servers.ts';
import type { Tap } from './tap.ts';

export type Verdict = 'ok' | 'client lacks it' | 'server lacks it' | 'a bug of the client' | `fails: ${string}`;

export interface KnownBug {
  readonly client: string;
  readonly revision: Revision;
  readonly feature: Feature;
  /** Slugs of the servers that do not make up for it; default: all. */
  readonly on?: readonly string[];
  readonly what: string;
}

/** What is the client's own doing: it sends the same wherever it is connected to. */
export const knownBugs: readonly KnownBug[] = [
  {
    client: 'mcp-remote',
    revision: '2026-07-28',
    feature: 'cancel',
    on: ['everything', 'playwright'],
    what: 'It posts `notifications/cancelled`, which this revision knows over stdio alone, and leaves the stream of the call open. Servers on SDK v2 take it all the same; a node, which translates for many clients with the same request ids, does not, and the call goes on.',
  },
  {
    client: 'AI SDK',
    revision: '2025-11-25',
    feature: 'cancel',
    what: 'It closes its connection, which cancels nothing in this revision, and sends no `notifications/cancelled`; so the call goes on.',
  },
];

function knownBug(client: InteropClient, server: InteropServer, feature: Feature): KnownBug | undefined {
  const isOf = (bug: KnownBug): boolean => bug.client === client.name && bug.revision === client.revision;
  return knownBugs.find((bug) => isOf(bug) && bug.feature === feature && (bug.on?.includes(server.slug) ?? true));
}

export interface InteropCell {
  readonly client: InteropClient;
  readonly server: InteropServer;
  readonly verdicts: Readonly<Record<Feature, Verdict>>;
}

interface Probe {
  readonly client: Connected;
  readonly tap: Tap;
  /** How long the server may take to hear of what the client did. */
  readonly patienceMs: number;
}

class Unexpected extends Error {}

function expectText(what: unknown, says: string): void {
  const text = JSON.stringify(what);
  if (!text.includes(JSON.stringify(says).slice(1, -1))) throw new Unexpected(`no "${says}" in ${text.slice(0, 300)}`);
}

type Check = (probe: Probe) => Promise<void>;

/** What each feature comes down to on the server; undefined where the server lacks it. */
function checksOf(server: InteropServer): Readonly<Record<Feature, Check | undefined>> {
  const { call, resource, prompt, asking, telling, slow } = server;
  return {
    list: async ({ client }) => expectText(await client.listTools(), call.name),
    call: async ({ client }) => expectText(await client.call(call.name, call.values), call.says),
    read: resource && (async ({ client }) => expectText(await client.read(resource.uri), resource.says)),
    prompt: prompt && (async ({ client }) => expectText(await client.prompt(prompt.name), prompt.says)),
    elicitation:
      asking && (async ({ client }) => expectText(await client.call(asking.name, asking.values), asking.says)),
    progress: telling && (({ client }) => hearsProgress(client, telling)),
    cancel: slow && (({ client, tap, patienceMs }) => isCancelled(client, slow, tap, patienceMs)),
  };
}

type Call = NonNullable<InteropServer['telling']>;

async function hearsProgress(client: Connected, { name, values }: Call): Promise<void> {
  let heard = 0;
  // Clients may miss what comes at one moment with the answer, as it does on a busy machine.
  for (let attempt = 1; heard === 0 && attempt <= progressAttempts; attempt++) {
    await client.call(name, values, { onProgress: () => (heard += 1) });
  }
  if (heard === 0) throw new Unexpected('the client heard of no progress');
}

const progressAttempts = 3;
const patienceMs = 15_000;
/** Where nothing is to be heard. */
const shortPatienceMs = 1_000;

/** Cancelled is a call that its client has given up and its server was told of. */
async function isCancelled(client: Connected, { name, values }: Call, tap: Tap, deadlineMs: number): Promise<void> {
  const before = { calls: tap.calls, cancellations: tap.cancellations };
  const giveUp = new AbortController();
  const call = client.call(name, values, { signal: giveUp.signal }).then(
    () => 'answered',
    () => 'given up',
  );
  await waitFor('the call is under way', () => tap.calls > before.calls);
  giveUp.abort();
  if ((await call) !== 'given up') throw new Unexpected('the client did not give up');
  await waitFor('the server is told', () => tap.cancellations > before.cancellations, { deadlineMs });
}

async function verdictOf(
  feature: Feature,
  client: InteropClient,
  server: InteropServer,
  connected: Omit<Probe, 'patienceMs'>,
): Promise<Verdict> {
  const bug = knownBug(client, server, feature);
  const check = checksOf(server)[feature];
  if (check === undefined) return 'server lacks it';
  if (client.lacks.includes(feature)) return 'client lacks it';
  try {
    await check({ ...connected, patienceMs: bug === undefined ? patienceMs : shortPatienceMs });
    return 'ok';
  } catch (error) {
    if (bug !== undefined) return 'a bug of the client';
    return `fails: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** @throws Error where the client cannot even connect, or speaks another revision than it should */
export async function runInteropCell(
  client: InteropClient,
  server: InteropServer,
  way: { readonly endpoint: Endpoint; readonly tap: Tap },
): Promise<InteropCell> {
  const connected = await client.connect(way.endpoint, server.asking?.answer ?? {});
  try {
    if (connected.revision !== undefined && connected.revision !== client.revision) {
      throw new Error(`${client.name} speaks ${connected.revision} to ${server.name}, not ${client.revision}`);
    }
    const verdicts: [Feature, Verdict][] = [];
    for (const feature of features) {
      verdicts.push([feature, await verdictOf(feature, client, server, { client: connected, tap: way.tap })]);
    }
    return { client, server, verdicts: Object.fromEntries(verdicts) as Record<Feature, Verdict> };
  } finally {
    await connected.close();
  }
}

import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';
import { z } from 'zod';
import type { Ports } from './choose-ports.ts';
import type { GraphqlClient } from './graphql-client.ts';
import type { Memory } from './issue-keys.ts';
import type { ReportedServer } from './report.ts';
import { everythingUrlOf, exampleUrlOf } from './topology.ts';

const discoveryTimeoutMs = 30_000;
const pollIntervalMs = 100;

interface ExampleServer {
  readonly slug: string;
  readonly title: string;
  readonly description: string;
  readonly url: string;
  readonly era: 'legacy' | 'modern';
  /** What is granted; the server has more, to show that the rest does not exist for the client. */
  readonly tools: readonly string[];
  readonly example: ReportedServer['example'];
}

function exampleServers(ports: Ports): readonly ExampleServer[] {
  return [
    {
      slug: 'everything',
      title: 'Everything (2025-11-25, third party)',
      description: 'The test server of the MCP project: many tools, prompts and resources to try.',
      url: everythingUrlOf(ports),
      era: 'legacy',
      tools: ['echo', 'get-sum', 'get-tiny-image'],
      example: { tool: 'echo', arguments: { message: 'Hello from behind the gateway' } },
    },
    {
      slug: 'units',
      title: 'Units (2026-07-28)',
      description: 'A small server that comes with Sallyport: the time, unit conversion and word counts.',
      url: exampleUrlOf(ports),
      era: 'modern',
      tools: ['time', 'convert_units'],
      example: { tool: 'convert_units', arguments: { value: 26.2188, from: 'mi', to: 'km' } },
    },
  ];
}

const Server = z.object({
  id: z.string(),
  slug: z.string(),
  title: z.string(),
  url: z.string(),
  lifecycle: z.string(),
  discoveredAt: z.string().nullable(),
  discoveryProblem: z.object({ message: z.string() }).nullable(),
});
type Server = z.infer<typeof Server>;
const serverFields = 'id slug title url lifecycle discoveredAt discoveryProblem { message }';

/**
 * Registers and approves the example servers and grants the group some of their tools, once: afterwards they belong to
 * the admin, and a grant that was revoked stays revoked. A later start only tells the control plane where they listen.
 */
export async function registerExamples(
  owner: GraphqlClient,
  groupId: string,
  ports: Ports,
  memory: Memory,
  clock: Clock,
): Promise<readonly ReportedServer[]> {
  const examples = exampleServers(ports);
  const known = memory.state().exampleServers;
  const servers = await Promise.all(
    examples.map(async (example) => {
      const server = await ensureServer(owner, example, known?.[example.slug]);
      if (server === undefined || known !== undefined) return server;
      await approve(owner, await discovered(owner, server, clock));
      await ensureGrant(owner, server, groupId, example, clock);
      return server;
    }),
  );
  if (known === undefined) {
    const ids = servers.flatMap((server) => (server === undefined ? [] : [[server.slug, server.id] as const]));
    memory.save({ exampleServers: Object.fromEntries(ids) });
  }
  const reported = servers.flatMap((server, at) => {
    const example = examples[at];
    return server === undefined || example === undefined ? [] : [describe(owner, server, groupId, example, clock)];
  });
  return Promise.all(reported);
}

/** The registered server with its present address; undefined when it was registered once and deleted since. */
async function ensureServer(
  owner: GraphqlClient,
  example: ExampleServer,
  knownId: string | undefined,
): Promise<Server | undefined> {
  const { servers } = await owner.ask(
    `query ($slug: String!) { servers(slug: $slug) { edges { node { ${serverFields} } } } }`,
    { slug: example.slug },
    z.object({ servers: z.object({ edges: z.array(z.object({ node: Server })) }) }),
  );
  const found = servers.edges
    .map(({ node }) => node)
    .find((server) => (knownId === undefined ? server.slug === example.slug : server.id === knownId));
  if (found === undefined) return knownId === undefined ? createServer(owner, example) : undefined;
  if (found.url === example.url) return found;
  const { updateServer } = await owner.ask(
    `mutation ($input: UpdateServerInput!) { updateServer(input: $input) { ${serverFields} } }`,
    { input: { id: found.id, url: example.url } },
    z.object({ updateServer: Server }),
  );
  return updateServer;
}

async function createServer(owner: GraphqlClient, { slug, title, description, url }: ExampleServer): Promise<Server> {
  const { createServer: created } = await owner.ask(
    `mutation ($input: CreateServerInput!) { createServer(input: $input) { ${serverFields} } }`,
    { input: { slug, title, description, url } },
    z.object({ createServer: Server }),
  );
  return created;
}

/** Waits until the control plane has read the server's definitions; asks it to hurry, once. */
async function discovered(owner: GraphqlClient, server: Server, clock: Clock): Promise<Server> {
  const deadline = clock.monotonic() + discoveryTimeoutMs;
  for (let current = server; ; await wait(pollIntervalMs)) {
    if (current.discoveredAt !== null && current.discoveryProblem === null) return current;
    if (clock.monotonic() > deadline) {
      throw new Error(`${server.url} was not discovered: ${current.discoveryProblem?.message ?? 'no answer in time'}`);
    }
    const answer = await owner.ask(
      `query ($id: ID!) { server(id: $id) { ${serverFields} } }`,
      { id: server.id },
      z.object({ server: Server }),
    );
    current = answer.server;
  }
}

const toolsPageSize = 200;

async function toolsOf(owner: GraphqlClient, serverId: string): Promise<readonly string[]> {
  const { definitions } = await owner.ask(
    `query ($serverId: ID!, $first: Int!) {
      definitions(serverId: $serverId, kind: TOOL, first: $first) { edges { node { name } } }
    }`,
    { serverId, first: toolsPageSize },
    z.object({ definitions: z.object({ edges: z.array(z.object({ node: z.object({ name: z.string() }) })) }) }),
  );
  return definitions.edges.map(({ node }) => node.name);
}

/** Approves the server with the definitions it has now; what it changes later is withheld until an admin looks. */
async function approve(owner: GraphqlClient, server: Server): Promise<void> {
  if (server.lifecycle === 'APPROVED') return;
  await owner.ask(
    `mutation ($input: ServerInput!) { approveServer(input: $input) { id } }`,
    { input: { id: server.id } },
    z.object({ approveServer: z.object({ id: z.string() }) }),
  );
}

const Grant = z.object({ effect: z.string(), tools: z.array(z.string()), notAfter: z.string().nullable() });

/** Grants of the group itself on the server; those that ended have no effect and are left out. */
async function grantsOf(
  owner: GraphqlClient,
  serverId: string,
  groupId: string,
  clock: Clock,
): Promise<readonly z.infer<typeof Grant>[]> {
  const { grants } = await owner.ask(
    `query ($serverId: ID!, $groupId: ID!) {
      grants(serverId: $serverId, groupId: $groupId, first: 200) { edges { node { effect tools notAfter } } }
    }`,
    { serverId, groupId },
    z.object({ grants: z.object({ edges: z.array(z.object({ node: Grant })) }) }),
  );
  const hasEnded = ({ notAfter }: z.infer<typeof Grant>) => notAfter !== null && Date.parse(notAfter) <= clock.now();
  return grants.edges.map(({ node }) => node).filter((grant) => !hasEnded(grant));
}

async function ensureGrant(
  owner: GraphqlClient,
  server: Server,
  groupId: string,
  { title, tools }: ExampleServer,
  clock: Clock,
): Promise<void> {
  if ((await grantsOf(owner, server.id, groupId, clock)).length > 0) return;
  const input = {
    name: `Some tools of ${title}`,
    subject: { kind: 'GROUP', id: groupId },
    serverId: server.id,
    effect: 'ALLOW',
    tools,
    reason: 'Made by "start" to try Sallyport with.',
  };
  await owner.ask(
    `mutation ($input: CreateGrantInput!) { createGrant(input: $input) { id } }`,
    { input },
    z.object({ createGrant: z.object({ id: z.string() }) }),
  );
}

/** What the report says of a server: the tools that grants of the group allow by their exact names. */
async function describe(
  owner: GraphqlClient,
  server: Server,
  groupId: string,
  example: ExampleServer,
  clock: Clock,
): Promise<ReportedServer> {
  const [tools, grants] = await Promise.all([toolsOf(owner, server.id), grantsOf(owner, server.id, groupId, clock)]);
  const patterns = (effect: string) =>
    grants.filter((grant) => grant.effect === effect).flatMap((grant) => grant.tools);
  const denied = patterns('DENY');
  const allowed = patterns('ALLOW').filter((tool) => tools.includes(tool) && !denied.includes(tool));
  return {
    slug: server.slug,
    title: server.title,
    era: example.era,
    grantedTools: [...new Set(allowed)],
    toolCount: tools.length,
    example: example.example,
  };
}

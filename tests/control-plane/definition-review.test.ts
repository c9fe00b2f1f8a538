import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type ListingUpstream, startListingUpstream, toolNamed } from '../kit/listing-upstream.ts';

interface Seen {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly driftClass: string | null;
  readonly digests: readonly string[];
  readonly approvedDigests: readonly string[];
  readonly rejectedDigests: readonly string[];
  readonly drifts: readonly Record<string, unknown>[];
}

const fields = `id revision definitions(first: 20) { edges { node {
  id name state driftClass digests approvedDigests rejectedDigests
  drifts { digest approvedDigest class text differences { path before after class } } } } }`;

let plane: TestControlPlane;
let upstream: ListingUpstream;
let serverId: string;
let slugs = 0;

beforeAll(async () => {
  plane = await startTestControlPlane({ environment: { SALLYPORT_EGRESS_ALLOW: '127.0.0.0/8:1024-65535' } });
  upstream = await startListingUpstream();
});
afterAll(async () => {
  await plane.stop();
  await upstream.stop();
});

/** A server in service with two tools. */
beforeEach(async () => {
  upstream.lists = { ...upstream.lists, tools: [toolNamed('echo'), toolNamed('add')] };
  serverId = await register({});
});

async function register(more: Record<string, unknown>): Promise<string> {
  const input = { slug: `reviewed-${slugs++}`, url: upstream.url, ...more };
  const created = await succeed('createServer', 'CreateServerInput', input, 'id');
  await discover(created.id);
  await succeed('approveServer', 'ServerInput', { id: created.id }, 'id');
  return created.id;
}

function run(name: string, type: string, input: object, selected: string, key?: string) {
  return plane.ask(`mutation ($input: ${type}!) { result: ${name}(input: $input) { ${selected} } }`, { input }, key);
}

async function succeed(name: string, type: string, input: object, selected: string) {
  const { data, errors } = await run(name, type, input, selected);
  expect(errors).toEqual([]);
  return data.result;
}

async function violations(name: string, type: string, input: object): Promise<string[]> {
  const { errors } = await run(name, type, input, 'id');
  return (errors[0]?.extensions.violations ?? []).map(({ path, message }) => `${path} ${message}`);
}

async function discover(id = serverId): Promise<Readonly<Record<string, Seen>>> {
  const { definitions } = await succeed('discoverServer', 'ServerInput', { id }, fields);
  return Object.fromEntries(definitions.edges.map(({ node }: { node: Seen }) => [node.name, node]));
}

function statesOf(found: Readonly<Record<string, Seen>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.values(found).map(({ name, state }) => [name, state]));
}

function sends(...tools: readonly unknown[]): void {
  upstream.lists = { ...upstream.lists, tools };
}
const changed = (description: string) => toolNamed('echo', description);
const approve = (input: object) =>
  run('approveDefinitions', 'ApproveDefinitionsInput', { id: serverId, ...input }, 'id state');
const reject = (input: object) =>
  run('rejectDefinitions', 'RejectDefinitionsInput', { id: serverId, ...input }, 'id state');

test('a drift is shown with its class, what was and what is, and hidden characters spelled out', async () => {
  sends(changed('Echoes\u200b twice.'), toolNamed('add'));
  const { echo } = await discover();
  expect(echo).toMatchObject({ state: 'QUARANTINED', driftClass: 'QUARANTINE' });
  expect(echo?.drifts).toEqual([
    {
      digest: echo?.digests[0],
      approvedDigest: echo?.approvedDigests[0],
      class: 'QUARANTINE',
      text: '/description\n- The tool echo\n+ Echoes⟦U+200B⟧ twice.',
      differences: [{ path: '/description', before: 'The tool echo', after: 'Echoes\u200b twice.', class: 'REVIEW' }],
    },
  ]);
});

describe('an approval', () => {
  test('is of what was looked at: where anything else is sent by now, nothing is approved', async () => {
    sends(changed('Second words.'), toolNamed('add', 'Adds.'));
    const looked = await discover();
    const ids = [looked['echo']?.id, looked['add']?.id];
    const digests = [...(looked['echo']?.digests ?? []), ...(looked['add']?.digests ?? [])];
    sends(changed('Third words.'), toolNamed('add', 'Adds.'));
    const now = await discover();
    const { errors } = await approve({ definitionIds: ids, digests });
    expect(errors[0]?.extensions.violations).toEqual([
      {
        path: 'input.definitionIds[0]',
        message: `tool echo is sent as ${now['echo']?.digests[0]} now, which is not among the digests given`,
      },
    ]);
    expect(Object.values(await discover()).map(({ state }) => state)).toEqual(['DRIFTED', 'DRIFTED']);
    const both = [...(now['echo']?.digests ?? []), ...(now['add']?.digests ?? [])];
    const { data } = await approve({ definitionIds: ids, digests: both });
    expect(data.result.map(({ state }: Seen) => state)).toEqual(['APPROVED', 'APPROVED']);
  });

  test('that says of nothing what was looked at is refused', async () => {
    const { echo } = await discover();
    expect(
      await violations('approveDefinitions', 'ApproveDefinitionsInput', { id: serverId, definitionIds: [echo?.id] }),
    ).toEqual(['input.digests must name the digests that were looked at, unless expectedRevision does']);
  });
});

describe('a rejection', () => {
  test('takes out of service, and is remembered: what was rejected is never approved by itself, whatever comes between', async () => {
    await succeed('updateServer', 'UpdateServerInput', { id: serverId, autoApproval: 'REVIEW' }, 'id');
    await succeed('updateServer', 'UpdateServerInput', { id: serverId, autoApproval: 'NONE' }, 'id');
    sends(changed('Unwanted words.'), toolNamed('add'));
    const { echo } = await discover();
    const definitionIds = [echo?.id];
    const { data } = await reject({ definitionIds, digests: echo?.digests });
    expect(data.result).toEqual([{ id: echo?.id, state: 'QUARANTINED' }]);
    sends(toolNamed('echo'), toolNamed('add'));
    const { echo: back } = await discover();
    expect(back).toMatchObject({ state: 'QUARANTINED', rejectedDigests: echo?.digests });
    await approve({ definitionIds, digests: back?.digests });
    await succeed('updateServer', 'UpdateServerInput', { id: serverId, autoApproval: 'REVIEW' }, 'id');
    sends(changed('Unwanted words.'), toolNamed('add'));
    expect((await discover())['echo']).toMatchObject({ state: 'QUARANTINED', driftClass: 'QUARANTINE' });
  });

  test('is of what was looked at, and of nothing where all is approved', async () => {
    const { echo } = await discover();
    const input = { id: serverId, definitionIds: [echo?.id], digests: [] };
    expect(await violations('rejectDefinitions', 'RejectDefinitionsInput', input)).toEqual([
      'input.definitionIds[0] all that is sent of the tool echo is approved: quarantine it instead',
    ]);
    sends(changed('Other words.'), toolNamed('add'));
    await discover();
    expect(await violations('rejectDefinitions', 'RejectDefinitionsInput', input)).toEqual([
      expect.stringMatching(/^input\.definitionIds\[0\] tool echo is sent as sha256:\w+ now/),
    ]);
  });

  test('that is tried changes nothing', async () => {
    sends(changed('Other words.'), toolNamed('add'));
    const { echo } = await discover();
    const { data } = await reject({ definitionIds: [echo?.id], digests: echo?.digests, dryRun: true });
    expect(data.result[0].state).toBe('QUARANTINED');
    expect((await discover())['echo']).toMatchObject({ state: 'DRIFTED', rejectedDigests: [] });
  });
});

describe('a server whose definitions are approved by themselves', () => {
  test('takes what drifts no further than that into service, on record, and nothing else', async () => {
    serverId = await register({ autoApproval: 'MINOR' });
    const { data } = await plane.ask('query ($id: ID!) { server(id: $id) { autoApproval } }', { id: serverId });
    expect(data.server.autoApproval).toBe('MINOR');
    sends({ ...toolNamed('echo'), title: 'Echo' }, toolNamed('add', 'Adds.'), toolNamed('new'));
    const found = await discover();
    expect(statesOf(found)).toEqual({ echo: 'APPROVED', add: 'DRIFTED', new: 'PENDING' });
    expect(found['echo']?.approvedDigests).toContain(found['echo']?.digests[0]);
    const events = await plane.ask('{ auditEvents(first: 1, action: "server.discover") { edges { node { after } } } }');
    expect(JSON.stringify(events.data.auditEvents.edges)).toContain(
      `"approvedByItself":["${found['echo']?.digests[0]}"]`,
    );
  });

  test('may take in new definitions too, but none that is risky or severe', async () => {
    serverId = await register({ autoApproval: 'REVIEW' });
    const hidden = toolNamed('hidden', 'Hides\u200b something.');
    sends(toolNamed('echo', 'Other words.'), toolNamed('add'), toolNamed('new'), toolNamed('delete_account'), hidden);
    expect(statesOf(await discover())).toEqual({
      echo: 'APPROVED',
      add: 'APPROVED',
      new: 'APPROVED',
      delete_account: 'PENDING',
      hidden: 'QUARANTINED',
    });
  });
});

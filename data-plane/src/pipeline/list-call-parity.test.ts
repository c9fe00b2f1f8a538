import {
  AppError,
  defaultLimits,
  definitionDigest,
  type DefinitionEntry,
  type DefinitionKind,
  grantDefaults,
  principalShard,
  type GrantEntry,
  type PrincipalRecord,
} from '@sallyport/schema';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseMessage } from '../mcp/envelope.ts';
import { buildFromDocuments } from '../runtime/build-runtime.ts';
import { authorize } from './authorize.ts';
import { DecisionCache } from './decisions.ts';
import type { Exchange, Routed } from './exchange.ts';
import { listedKind } from './pinned-definitions.ts';
import { reviewMessage } from './review-message.ts';

const names = ['a', 'ab', 'b', 'a://x', 'a://y', 'é'];
const keyHash = 'a'.repeat(64);
const principal: PrincipalRecord = {
  id: 'alice',
  kind: 'user',
  name: 'alice',
  status: 'active',
  groups: ['team'],
  epoch: 0,
  expiresAt: null,
  revokedFamilies: [],
  keys: [{ id: 'key', hash: keyHash, scopes: ['mcp'], expiresAt: Date.UTC(2100, 0) }],
};
const sealing = [{ id: 'k', secret: Buffer.alloc(32).toString('base64'), use: 'seal' as const }];

const kinds = [
  { list: 'tools/list', member: 'tools', name: 'name', call: 'tools/call', parameter: 'name' },
  { list: 'prompts/list', member: 'prompts', name: 'name', call: 'prompts/get', parameter: 'name' },
  { list: 'resources/list', member: 'resources', name: 'uri', call: 'resources/read', parameter: 'uri' },
  {
    list: 'resources/templates/list',
    member: 'resourceTemplates',
    name: 'uriTemplate',
    call: 'resources/read',
    parameter: 'uri',
  },
] as const;

/** Decides a request of the given method as a modern client's. */
function decided(routed: Omit<Routed, 'received'>, method: string, params: object) {
  const body = Buffer.from(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }));
  const exchange = { clientInfo: 'agent/1.0', request: { remoteAddress: '10.0.0.1' } } as Exchange;
  const received = { exchange, era: 'modern', kind: 'message', message: parseMessage(body), body };
  const decisions = new DecisionCache({ bytesMax: 1_000_000 });
  const context = { decisions, runtimes: { now: () => 50, contactAgeMs: () => 0 } };
  return authorize({ ...routed, received: received as unknown as Routed['received'] }, context);
}

function isCallable(routed: Omit<Routed, 'received'>, method: string, params: object): boolean {
  try {
    decided(routed, method, params);
    return true;
  } catch (error) {
    // Listed, and callable once it is approved.
    if (error instanceof AppError && error.code === 'APPROVAL_NEEDED') return true;
    if (error instanceof AppError && error.code.endsWith('_NOT_AVAILABLE')) return false;
    throw error;
  }
}

const selector = fc.array(fc.constantFrom(...names, '*', 'a*', 'a://*'), { maxLength: 2 });
const instant = fc.constantFrom(null, 0, 50, 100);
/** Some that hold, some that do not, and one that fails. */
const conditions = [
  'principal.kind == "user" && client.address.inNetwork("10.0.0.0/8")',
  '"named" in principal.groups',
  'client.name == "agent"',
  'principal.id == "bob"',
  'server.labels.none == "x"',
];
const anyGrant = fc.record<Omit<GrantEntry, 'id'>>({
  subject: fc.constantFrom({ kind: 'everyone' }, { kind: 'group', id: 'team' }, { kind: 'user', id: 'bob' }),
  effect: fc.constantFrom('allow', 'allow', 'deny', 'requireApproval'),
  mode: fc.constantFrom('enforce', 'enforce', 'shadow'),
  limits: fc.constant(null),
  when: fc.constantFrom(null, null, ...conditions),
  whenArguments: fc.constant(null),
  configStalenessMaxMs: fc.constant(null),
  tools: selector,
  prompts: selector,
  resources: selector,
  notBefore: instant,
  notAfter: instant,
});
const nameMembers = { tool: 'name', prompt: 'name', resource: 'uri', resourceTemplate: 'uriTemplate' } as const;
/** As the upstream lists it. */
function rawOf(kind: keyof typeof nameMembers, name: string): Record<string, unknown> {
  return { [nameMembers[kind]]: name, ...(kind === 'tool' ? { inputSchema: { type: 'object' } } : {}) };
}
const anyDefinition = fc
  .record({
    kind: fc.constantFrom('tool', 'prompt', 'resource', 'resourceTemplate'),
    name: fc.constantFrom(...names),
    state: fc.constantFrom('approved', 'approved', 'drifted', 'quarantined'),
  })
  .map(
    ({ kind, name, state }): DefinitionEntry => ({
      kind,
      name,
      state,
      approvedDigests: [definitionDigest(rawOf(kind, name))],
      labels: null,
    }),
  );

/** What a request is routed to under these grants, with one more, so that the principal knows of the server. */
function routedUnder(grants: readonly Omit<GrantEntry, 'id'>[], definitions: DefinitionEntry[]) {
  const certain = { ...grantDefaults, subject: { kind: 'everyone' as const }, effect: 'allow' as const };
  const { runtime } = buildFromDocuments([
    defaultLimits,
    { kind: 'keys', sealing },
    { kind: 'groups', groups: [{ id: 'team', name: 'named' }] },
    {
      kind: 'server',
      id: 's',
      slug: 's',
      lifecycle: 'approved',
      url: 'http://127.0.0.1/mcp',
      protocolRevisions: ['2026-07-28'],
      labels: {},
      definitions,
      transport: 'streamableHttp',
      extensions: [],
      auditMode: 'buffered',
      configStalenessMaxMs: null,
    },
    { kind: 'principals', shard: principalShard(principal.id), principals: [principal] },
    {
      kind: 'grants',
      serverId: 's',
      grants: [...grants, { ...certain, resources: ['certain'] }].map((entry, at) => ({ ...entry, id: String(at) })),
    },
  ]);
  const server = runtime.serverById.get('s');
  if (server === undefined) throw new Error('no server');
  const credential = { kind: 'apiKey', id: 'key', hash: keyHash };
  const authenticated = { principal, credential } as Routed['authenticated'];
  return { authenticated, runtime, server, protocolRevision: '2026-07-28' as const, session: null };
}

test('whatever the policy: what is listed can be called, and what can be called is listed as it was approved', () => {
  const property = fc.property(
    fc.array(anyGrant, { maxLength: 5 }),
    fc.array(anyDefinition, { maxLength: 20 }),
    (grants, defined) => {
      const unique = [...new Map(defined.map((entry) => [`${entry.kind} ${entry.name}`, entry])).values()];
      const routed = routedUnder(grants, unique);
      const isApproved = (kind: DefinitionKind, name: string): boolean =>
        unique.some((entry) => entry.kind === kind && entry.name === name && entry.state === 'approved');
      for (const { list, member, name, call, parameter } of kinds) {
        const listing = decided(routed, list, {});
        const kind = listedKind[member];
        const listedByAll = names.map((each) => rawOf(kind, each));
        const whole = { jsonrpc: '2.0', id: 1, result: { [member]: listedByAll } };
        const { bytes } = reviewMessage(Buffer.from(JSON.stringify(whole)), { authorized: listing, isBridged: false });
        const left = JSON.parse(String(bytes)) as { result: Record<string, Record<string, string>[]> };
        const listed = left.result[member]?.map((each) => each[name]);
        const callable = names.filter((each) => isCallable(routed, call, { [parameter]: each }));
        // A resource may be read that no list names; what is told of one that a list names must be approved.
        const isOfResources = kind === 'resource' || kind === 'resourceTemplate';
        expect(listed).toEqual(callable.filter((each) => !isOfResources || isApproved(kind, each)));
      }
    },
  );
  fc.assert(property, { numRuns: 1_000 });
});

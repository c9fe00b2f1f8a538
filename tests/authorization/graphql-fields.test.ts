import { fieldPermissions, printSchemaSdl } from '@sallyport/control-plane';
import { type Permission, readPermissions, type Role, rolePermissions } from '@sallyport/schema';
import { buildSchema } from 'graphql';
import { createClient } from 'graphql-ws';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { type GraphqlAnswer, startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { behindProxy, fromElsewhere } from './callers.ts';
import { type Operation, operationsOf } from './graphql-operations.ts';

/** Somebody who asks; undefined: nobody, whatever he presents. */
interface Asker {
  readonly name: string;
  readonly key: string | null;
  readonly permissions: readonly Permission[] | undefined;
}

const unknownId = '01890000-0000-7000-8000-0000000000ff';
const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

let plane: TestControlPlane;
let sql: postgres.Sql;
let askers: readonly Asker[];
/** Ids of objects that exist, by what they are. */
const existing: Record<string, string> = {};

async function made(name: string, inputType: string, input: object, fields = 'id'): Promise<Record<string, unknown>> {
  const document = `mutation ($input: ${inputType}!) { made: ${name}(input: $input) { ${fields} } }`;
  const answer = await plane.ask(document, { input });
  expect(answer.errors).toEqual([]);
  return answer.data.made;
}
const idOf = async (name: string, inputType: string, input: object): Promise<string> =>
  String((await made(name, inputType, input))['id']);
async function keyOf(principalId: string, more: object = {}): Promise<string> {
  const input = { principalId, name: 'key', scopes: ['API'], expiresAt: inDays(1), ...more };
  return String((await made('createApiKey', 'CreateApiKeyInput', input, 'secret'))['secret']);
}

async function makeAskers(): Promise<readonly Asker[]> {
  const holder = async (role?: Role): Promise<string> => {
    const id = await idOf('createUser', 'CreateUserInput', { name: role ?? 'nobody' });
    if (role !== undefined) await made('assignRole', 'RoleInput', { principalId: id, role: role.toUpperCase() });
    return id;
  };
  const limited = await holder();
  const serverLabels = [{ key: 'team', value: 'payments' }];
  await made('assignRole', 'RoleInput', { principalId: limited, role: 'EDITOR', serverLabels });
  const deactivated = await holder('admin');
  const deactivatedKey = await keyOf(deactivated);
  await made('updateUser', 'UpdateUserInput', { id: deactivated, status: 'DISABLED' });
  // Nobody but an auditor makes a key that reads payloads: it is there before the role.
  const auditor = await holder();
  const auditorKeys = { api: await keyOf(auditor), nodes: await keyOf(auditor, { scopes: ['MCP'] }) };
  await made('assignRole', 'RoleInput', { principalId: auditor, role: 'AUDITOR' });
  const reads = readPermissions.filter((permission) => rolePermissions.owner.includes(permission));
  return [
    { name: 'anonymous', key: null, permissions: undefined },
    { name: 'unknown key', key: `sp_${'z'.repeat(43)}`, permissions: undefined },
    { name: 'key without the scope', key: auditorKeys.nodes, permissions: undefined },
    { name: 'deactivated', key: deactivatedKey, permissions: undefined },
    { name: 'no role', key: await keyOf(await holder()), permissions: [] },
    { name: 'member', key: await keyOf(await holder('member')), permissions: rolePermissions.member },
    { name: 'viewer', key: await keyOf(await holder('viewer')), permissions: rolePermissions.viewer },
    { name: 'editor', key: await keyOf(await holder('editor')), permissions: rolePermissions.editor },
    { name: 'auditor', key: auditorKeys.api, permissions: rolePermissions.auditor },
    { name: 'admin', key: await keyOf(await holder('admin')), permissions: rolePermissions.admin },
    { name: 'owner', key: plane.ownerKey, permissions: rolePermissions.owner },
    { name: 'key to look', key: await keyOf(plane.ownerId, { scopes: ['API_READ'] }), permissions: reads },
    { name: 'narrow key', key: await keyOf(plane.ownerId, { permissions: ['user:read'] }), permissions: ['user:read'] },
    { name: 'limited to servers', key: await keyOf(limited), permissions: ['server:read', 'server:writeOwn'] },
  ];
}

beforeAll(async () => {
  plane = await startTestControlPlane({ environment: behindProxy });
  sql = postgres(plane.databaseUrl);
  const serverId = '01890000-0000-7000-8000-000000000001';
  await sql`insert into servers (id, slug, slug_key, title, url, labels, discovery_attempted_at)
    values (${serverId}, 'demo', 'demo', 'Demo', 'https://mcp.example.org/mcp', '{"team": "crm"}', now())`;
  const definitionId = '01890000-0000-7000-8000-000000000002';
  await sql`insert into definitions (id, server_id, kind, name, digests, state, first_seen_at, last_seen_at)
    values (${definitionId}, ${serverId}, 'tool', 'echo', '{d}', 'pending', now(), now())`;
  const userId = await idOf('createUser', 'CreateUserInput', { name: 'somebody' });
  const account = { name: 'bot', expiresAt: inDays(2) };
  const grant = { name: 'g', subject: { kind: 'EVERYONE' }, serverId, effect: 'ALLOW', tools: ['echo'] };
  const key = { principalId: userId, name: 'k', scopes: ['API'], expiresAt: inDays(1) };
  const issued = await made('createApiKey', 'CreateApiKeyInput', key, 'apiKey { id }');
  Object.assign(existing, {
    server: serverId,
    definition: definitionId,
    user: userId,
    serviceAccount: await idOf('createServiceAccount', 'CreateServiceAccountInput', account),
    group: await idOf('createGroup', 'CreateGroupInput', { name: 'a group' }),
    grant: await idOf('createGrant', 'CreateGrantInput', grant),
    role: await idOf('createRole', 'CreateRoleInput', { name: 'a role', permissions: ['user:read'] }),
    apiKey: (issued['apiKey'] as { id: string }).id,
  });
  askers = await makeAskers();
}, 60_000);
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const operations = operationsOf(buildSchema(printSchemaSdl()));

/** What everybody has of himself, and what of others needs; everything here is asked of somebody else. */
const ofOthers: Readonly<Record<string, Permission>> = {
  'Query.oauthConsents': 'user:read',
  'Mutation.endSessions': 'user:write',
};

/** What a field's row says of somebody. `server:write` is reached by whoever may write his own servers. */
function isPermitted(coordinate: string, asker: Asker): boolean {
  const access = ofOthers[coordinate] ?? fieldPermissions[coordinate];
  if (access === undefined) throw new Error(`${coordinate} has no row`);
  if (access === 'public') return true;
  if (asker.permissions === undefined) return false;
  if (access === 'authenticated' || asker.permissions.includes(access)) return true;
  return access === 'server:write' && asker.permissions.includes('server:writeOwn');
}

/** The object that a field addresses, by the end of its name: `updateServiceAccount` is about a service account. */
function existingFor(field: string): string | undefined {
  const kinds = Object.keys(existing).sort((a, b) => b.length - a.length);
  const kind = kinds.find((one) => field.toLowerCase().endsWith(one.toLowerCase()));
  return kind === undefined ? undefined : existing[kind];
}

/** The code with which somebody is refused, by the row of the field; undefined where he is let in. */
function expectedCode({ coordinate, addressesOne }: Operation, asker: Asker): string | undefined {
  // The bootstrap token opens it, which nobody has here.
  if (fieldPermissions[coordinate] === 'public' || asker.permissions === undefined) return 'UNAUTHENTICATED';
  if (isPermitted(coordinate, asker)) return undefined;
  return addressesOne ? 'NOT_FOUND' : 'FORBIDDEN';
}

const codeOf = (answer: GraphqlAnswer): string => answer.errors[0]?.extensions.code ?? 'none';
const refusals = ['UNAUTHENTICATED', 'FORBIDDEN'];
async function ask(operation: Operation, id: string, { key }: Asker): Promise<GraphqlAnswer> {
  const response = await fetch(plane.graphqlUrl, {
    method: 'POST',
    headers: {
      ...fromElsewhere(),
      'content-type': 'application/json',
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
    },
    body: JSON.stringify({ query: operation.document, variables: operation.variables(id) }),
  });
  const body = (await response.json()) as { data?: unknown; errors?: GraphqlAnswer['errors'] };
  return { status: response.status, data: body.data, errors: body.errors ?? [] };
}

describe('every field of the root types, for everybody', () => {
  const asked = operations.filter(({ root }) => root !== 'Subscription');

  test('there is an operation for each row of the table, and a row for each operation', () => {
    const rows = Object.keys(fieldPermissions).filter((row) => /^(Query|Mutation|Subscription)\./.test(row));
    expect(operations.map(({ coordinate }) => coordinate).sort()).toEqual(rows.sort());
  });

  test.each(asked.map((operation) => [operation.coordinate, operation] as const))(
    '%s',
    async (coordinate, operation) => {
      for (const asker of askers) {
        const code = codeOf(await ask(operation, unknownId, asker));
        const expected = expectedCode(operation, asker);
        expect([asker.name, code]).toEqual([asker.name, expected ?? (refusals.includes(code) ? 'to be let in' : code)]);
      }
    },
  );

  test('an object that somebody may not see or change answers as one that does not exist, to the byte', async () => {
    const addressing = asked.filter(({ addressesOne, field }) => addressesOne && existingFor(field) !== undefined);
    expect(addressing.length).toBeGreaterThan(20);
    for (const operation of addressing) {
      const id = existingFor(operation.field) ?? '';
      for (const asker of askers.filter((one) => !isPermitted(operation.coordinate, one))) {
        const [there, absent] = [await ask(operation, id, asker), await ask(operation, unknownId, asker)];
        expect([operation.coordinate, asker.name, there]).toEqual([operation.coordinate, asker.name, absent]);
      }
    }
  });

  test('what exists is found by those who may, so that not finding it means something', async () => {
    const owner = askers.find(({ name }) => name === 'owner');
    if (owner === undefined) throw new Error('there is no owner');
    // To discover dials the server, and each of the others is about something else besides.
    const elsewhere = ['discoverServer', 'confirmRole'];
    const addressing = asked.filter(({ addressesOne, field }) => addressesOne && !elsewhere.includes(field));
    const missing: string[] = [];
    for (const operation of addressing) {
      const id = existingFor(operation.field);
      if (id !== undefined && codeOf(await ask(operation, id, owner)) === 'NOT_FOUND')
        missing.push(operation.coordinate);
    }
    expect(missing).toEqual([]);
  });

  test('a server beyond the labels of a role answers as one that does not exist', async () => {
    const limited = askers.find(({ name }) => name === 'limited to servers');
    if (limited === undefined) throw new Error('nobody is limited to servers');
    const aboutServers = asked.filter(({ coordinate, addressesOne, field }) => {
      return addressesOne && isPermitted(coordinate, limited) && /(Server|server|definition)$/.test(field);
    });
    expect(aboutServers.length).toBeGreaterThan(4);
    for (const operation of aboutServers) {
      const id = existingFor(operation.field) ?? '';
      const [there, absent] = [await ask(operation, id, limited), await ask(operation, unknownId, limited)];
      expect([operation.coordinate, codeOf(there)]).toEqual([operation.coordinate, 'NOT_FOUND']);
      expect(there).toEqual(absent);
    }
  });
});

class SocketFromElsewhere extends WebSocket {
  constructor(url: string, protocols: string[]) {
    super(url, protocols, { headers: fromElsewhere() });
  }
}

describe('every subscription, for everybody', () => {
  const subscriptions = operations.filter(({ root }) => root === 'Subscription');

  /** `refused` by a closed socket, the code of an error, or `open`. */
  function outcomeOf(operation: Operation, { key }: Asker): Promise<string> {
    const client = createClient({
      url: plane.graphqlUrl.replace('http', 'ws'),
      webSocketImpl: SocketFromElsewhere,
      retryAttempts: 0,
      ...(key === null ? {} : { connectionParams: { authorization: `Bearer ${key}` } }),
    });
    return new Promise<string>((resolve) => {
      let isSettled = false;
      const settle = (outcome: string): void => {
        if (isSettled) return;
        isSettled = true;
        resolve(outcome);
        void client.dispose();
      };
      const failed = (errors: unknown): string =>
        Array.isArray(errors) ? String(errors[0]?.extensions?.code) : 'refused';
      client.subscribe(
        { query: operation.document, variables: operation.variables(unknownId) },
        {
          next: ({ errors }) => settle(errors === undefined ? 'open' : failed(errors)),
          error: (errors) => settle(failed(errors)),
          complete: () => settle('complete'),
        },
      );
      // One that is let in says nothing until something happens. What is refused is so within the turn that takes it,
      // so the answers to some questions behind it show that it stands.
      const askBehind = (left: number): void => {
        if (isSettled) return;
        const answered = (): void => (left === 0 ? settle('open') : askBehind(left - 1));
        client.subscribe(
          { query: 'subscription { nowhere }' },
          { next: () => undefined, error: answered, complete: answered },
        );
      };
      client.on('connected', () => askBehind(5));
    });
  }

  test.each(subscriptions.map((operation) => [operation.coordinate, operation] as const))(
    '%s',
    async (coordinate, operation) => {
      for (const asker of askers) {
        const outcome = await outcomeOf(operation, asker);
        const isAllowed = isPermitted(coordinate, asker);
        const expected =
          asker.permissions === undefined ? ['refused'] : isAllowed ? ['open'] : ['FORBIDDEN', 'NOT_FOUND'];
        expect([asker.name, outcome, expected.includes(outcome)]).toEqual([asker.name, outcome, true]);
      }
    },
  );
});

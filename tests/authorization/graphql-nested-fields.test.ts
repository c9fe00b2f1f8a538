/** Fields within objects that need another permission than the way to them: asked for by callers who have all but that. */
import { fieldPermissions, printSchemaSdl } from '@sallyport/control-plane';
import { isPermission, type Permission } from '@sallyport/schema';
import { buildSchema, getNamedType, type GraphQLObjectType, isLeafType, isNonNullType, isObjectType } from 'graphql';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type GraphqlAnswer, startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type Operation, operationsOf } from './graphql-operations.ts';

/** How an object of a type is come by. */
interface Way {
  readonly operation: Operation;
  readonly fields: readonly string[];
  readonly permissions: ReadonlySet<Permission>;
}
interface Nested {
  readonly coordinate: string;
  readonly way: Way;
  readonly selection: string;
  readonly permission: Permission;
}

const schema = buildSchema(printSchemaSdl());
const accessOf = (type: string, field: string) => fieldPermissions[`${type}.${field}`] ?? fieldPermissions[type];

function withAccess(permissions: ReadonlySet<Permission>, access: string | undefined): ReadonlySet<Permission> {
  return access !== undefined && isPermission(access) ? new Set([...permissions, access]) : permissions;
}

/** The shortest way to each type, from the operations of one root; what somebody is told of himself leads nowhere. */
function waysFrom(root: 'Query' | 'Mutation'): ReadonlyMap<string, Way> {
  const ways = new Map<string, Way>();
  const queue: { readonly type: GraphQLObjectType; readonly way: Way }[] = [];
  const reach = (type: unknown, way: Way): void => {
    if (!isObjectType(type) || ways.has(type.name)) return;
    ways.set(type.name, way);
    queue.push({ type, way });
  };
  const fields = schema.getType(root);
  if (!isObjectType(fields)) throw new Error(`no type ${root}`);
  for (const operation of operationsOf(schema).filter((one) => one.root === root && one.field !== 'me')) {
    const field = fields.getFields()[operation.field];
    const permissions = withAccess(new Set(), fieldPermissions[operation.coordinate]);
    if (field !== undefined && (root === 'Mutation' || operation.document.indexOf('$') < 0))
      reach(getNamedType(field.type), { operation, fields: [], permissions });
  }
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    const { type, way } = next;
    for (const field of Object.values(type.getFields())) {
      if (field.args.some((argument) => isNonNullType(argument.type))) continue;
      const permissions = withAccess(way.permissions, accessOf(type.name, field.name));
      reach(getNamedType(field.type), { ...way, fields: [...way.fields, field.name], permissions });
    }
  }
  return ways;
}

function nestedFrom(root: 'Query' | 'Mutation'): readonly Nested[] {
  return [...waysFrom(root)].flatMap(([name, way]) => {
    const type = schema.getType(name);
    if (!isObjectType(type)) return [];
    return Object.values(type.getFields()).flatMap((field): Nested[] => {
      const permission = accessOf(name, field.name);
      const isAnother = permission !== undefined && isPermission(permission) && !way.permissions.has(permission);
      if (!isAnother || field.args.some((argument) => isNonNullType(argument.type))) return [];
      const selection = isLeafType(getNamedType(field.type)) ? field.name : `${field.name} { __typename }`;
      return [{ coordinate: `${name}.${field.name}`, way, selection, permission }];
    });
  });
}

/** The operation, asking for the field at the end of the way. */
function documentOf({ way, selection }: Nested): string {
  const inner = way.fields.reduceRight((text, field) => `${field} { ${text} }`, selection);
  const whole = way.operation.document;
  const at = whole.lastIndexOf('{ __typename }');
  return `${whole.slice(0, at)}{ ${inner} }${whole.slice(at + '{ __typename }'.length)}`;
}

let plane: TestControlPlane;
const keys = new Map<string, string>();
const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

async function made(document: string): Promise<Record<string, string>> {
  const answer = await plane.ask(`mutation { made: ${document} }`);
  expect(answer.errors).toEqual([]);
  return answer.data.made;
}
/** A key of the owner's that has these permissions and no other. */
async function keyWith(permissions: ReadonlySet<Permission>): Promise<string> {
  const named = [...permissions].sort();
  const known = keys.get(named.join());
  if (known !== undefined) return known;
  const input = { principalId: plane.ownerId, name: 'k', scopes: ['API'], permissions: named, expiresAt: inDays(1) };
  const document = 'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }';
  const answer = await plane.ask(document, { input });
  expect(answer.errors).toEqual([]);
  keys.set(named.join(), answer.data.createApiKey.secret);
  return answer.data.createApiKey.secret;
}

beforeAll(async () => {
  plane = await startTestControlPlane();
  await made('createUser(input: { name: "somebody" }) { id }');
  await made('createGroup(input: { name: "a group" }) { id }');
  await made(`createServiceAccount(input: { name: "bot", expiresAt: "${inDays(2)}" }) { id }`);
  const server = await made('createServer(input: { slug: "demo", url: "https://mcp.example.org/mcp" }) { id }');
  const sql = postgres(plane.databaseUrl);
  await sql`insert into definitions (id, server_id, kind, name, digests, state, first_seen_at, last_seen_at)
    values (${crypto.randomUUID()}, ${server['id'] ?? ''}, 'tool', 'echo', '{d}', 'pending', now(), now())`;
  await sql.end();
});
afterAll(() => plane.stop());

const unknownId = '01890000-0000-7000-8000-0000000000ff';
const askAs = async (nested: Nested, permissions: ReadonlySet<Permission>): Promise<GraphqlAnswer> =>
  plane.ask(documentOf(nested), nested.way.operation.variables(unknownId), await keyWith(permissions));
const codesOf = (answer: GraphqlAnswer): string[] => answer.errors.map(({ extensions }) => extensions.code);
/** Labels are asked for in the answers of changes: no object here that is not a server carries any. */
const withoutObject: readonly string[] = ['Label.key', 'Label.value'];
const named = (root: 'Query' | 'Mutation') =>
  nestedFrom(root)
    .filter(({ coordinate }) => root === 'Mutation' || !withoutObject.includes(coordinate))
    .map((nested) => [nested.coordinate, nested] as const);

test.each(named('Query'))(
  '%s of an object is not read without its permission, and is with it',
  async (_name, nested) => {
    const { way, permission } = nested;
    expect(codesOf(await askAs(nested, way.permissions))).toContain('FORBIDDEN');
    expect(codesOf(await askAs(nested, new Set([...way.permissions, permission])))).toEqual([]);
  },
);

test.each(named('Mutation'))(
  '%s in the answer of a change is not asked for without its permission',
  async (_name, nested) => {
    const { way, permission } = nested;
    expect(codesOf(await askAs(nested, way.permissions))).toEqual(['FORBIDDEN']);
    // What else is wrong with the change is told then.
    expect(codesOf(await askAs(nested, new Set([...way.permissions, permission])))).not.toContain('FORBIDDEN');
  },
);

test('there are such fields, of queries and of changes', () => {
  expect(nestedFrom('Query').map(({ coordinate }) => coordinate)).toContain('User.roles');
  expect(nestedFrom('Mutation').map(({ coordinate }) => coordinate)).toContain('Group.accessChanges');
});

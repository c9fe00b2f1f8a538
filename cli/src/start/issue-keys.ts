import { type Clock, randomSecret } from '@sallyport/schema/platform';
import { z } from 'zod';
import { createGraphqlClient, type GraphqlClient, GraphqlError } from './graphql-client.ts';
import type { State, StoredKey } from './state-directory.ts';

const dayMs = 86_400_000;
/** The API gives no key a longer life than a year. */
const ownerLifetimeMs = 365 * dayMs;
const ownerRenewalMs = 90 * dayMs;
const clientLifetimeMs = 90 * dayMs;
const clientRenewalMs = 7 * dayMs;

/** What `start` remembers between starts. */
export interface Memory {
  readonly state: () => State;
  /** Writes at once: the API shows a key only this one time. */
  readonly save: (changed: Partial<State>) => void;
}

const Issued = z.object({ apiKey: z.object({ id: z.string(), expiresAt: z.string() }), secret: z.string() });

function stored({ apiKey, secret }: z.infer<typeof Issued>): StoredKey {
  return { id: apiKey.id, secret, expiresAt: apiKey.expiresAt };
}

/** A token for the first owner when `start` holds no key of one that still opens. The control plane is started with it. */
export function bootstrapTokenFor(memory: Memory, clock: Clock): string | undefined {
  const { ownerKey } = memory.state();
  return leftMs(ownerKey, clock) > 0 ? undefined : randomSecret('spb_');
}

/** The owner's key: made with the bootstrap token, else the one of before, renewed when it nears its expiry. */
export async function ensureOwnerKey(
  graphqlUrl: string,
  bootstrapToken: string | undefined,
  memory: Memory,
  clock: Clock,
): Promise<StoredKey> {
  const known = memory.state().ownerKey;
  if (bootstrapToken !== undefined || known === undefined) {
    const ownerKey = await bootstrap(graphqlUrl, bootstrapToken ?? '', clock);
    memory.save({ ownerKey });
    return ownerKey;
  }
  if (leftMs(known, clock) > ownerRenewalMs) return known;
  const owner = createGraphqlClient(graphqlUrl, known.secret);
  const { me } = await owner.ask(`query { me { id } }`, {}, z.object({ me: z.object({ id: z.string() }) }));
  const ownerKey = await rotate(owner, known, me.id, ownerLifetimeMs, clock);
  memory.save({ ownerKey });
  return ownerKey;
}

async function bootstrap(graphqlUrl: string, token: string, clock: Clock): Promise<StoredKey> {
  const input = { token, serviceAccountName: 'sallyport start', expiresAt: inMs(clock, ownerLifetimeMs) };
  const client = createGraphqlClient(graphqlUrl, undefined);
  const Bootstrapped = z.object({ apiKeyId: z.string(), expiresAt: z.string(), secret: z.string() });
  const data = z.object({ bootstrap: Bootstrapped });
  const document = `mutation ($input: BootstrapInput!) { bootstrap(input: $input) { apiKeyId expiresAt secret } }`;
  const answer = await client.ask(document, { input }, data).catch((cause: unknown) => {
    if (!(cause instanceof GraphqlError) || !cause.codes.includes('UNAUTHENTICATED')) throw cause;
    throw new Error(
      'This database has an owner whose key is not kept here, so nothing can be registered. Begin anew with ' +
        '"npx pnpm@12 sallyport reset", or give an empty database in DATABASE_URL.',
      { cause },
    );
  });
  const { apiKeyId, expiresAt, secret } = answer.bootstrap;
  return { id: apiKeyId, secret, expiresAt };
}

const clientAccountName = 'Example client';
const clientGroupName = 'Example clients';

export interface ClientKey extends StoredKey {
  /** A key printed earlier was about to expire, and this one follows it; both open for a day. */
  readonly replacesExpiring: boolean;
}

/**
 * The service account of the example client in its group, and its key. What is there is used; what an admin deleted
 * or revoked is made again, because the report promises a key that opens.
 */
export async function ensureClientKey(
  owner: GraphqlClient,
  memory: Memory,
  clock: Clock,
): Promise<{ readonly groupId: string; readonly key: ClientKey }> {
  const accountId = await ensureServiceAccount(owner, clock);
  const groupId = await ensureGroup(owner);
  await owner.ask(
    `mutation ($input: GroupMembersInput!) { addGroupMembers(input: $input) { id } }`,
    { input: { id: groupId, principalIds: [accountId] } },
    z.object({ addGroupMembers: z.object({ id: z.string() }) }),
  );
  const known = memory.state().clientKey;
  if (known !== undefined && (await opens(owner, known, accountId))) {
    if (leftMs(known, clock) > clientRenewalMs) return { groupId, key: { ...known, replacesExpiring: false } };
    const clientKey = await rotate(owner, known, accountId, clientLifetimeMs, clock);
    memory.save({ clientKey });
    return { groupId, key: { ...clientKey, replacesExpiring: true } };
  }
  const input = {
    principalId: accountId,
    name: 'example client',
    scopes: ['MCP'],
    expiresAt: inMs(clock, clientLifetimeMs),
  };
  const { createApiKey } = await owner.ask(
    `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { apiKey { id expiresAt } secret } }`,
    { input },
    z.object({ createApiKey: Issued }),
  );
  const clientKey = stored(createApiKey);
  memory.save({ clientKey });
  return { groupId, key: { ...clientKey, replacesExpiring: false } };
}

/** Whether the key is one of the account's and neither revoked nor expired, by the control plane's own word. */
async function opens(owner: GraphqlClient, key: StoredKey, accountId: string): Promise<boolean> {
  const Key = z.object({ revokedAt: z.string().nullable(), principal: z.object({ id: z.string() }) });
  try {
    const { apiKey } = await owner.ask(
      `query ($id: ID!) { apiKey(id: $id) { revokedAt principal { id } } }`,
      { id: key.id },
      z.object({ apiKey: Key }),
    );
    return apiKey.revokedAt === null && apiKey.principal.id === accountId;
  } catch (error) {
    if (error instanceof GraphqlError && error.codes.includes('NOT_FOUND')) return false;
    throw error;
  }
}

/** A successor key; its holder's own expiry is moved along, for no key opens longer than its holder may act. */
async function rotate(
  owner: GraphqlClient,
  key: StoredKey,
  holderId: string,
  lifetimeMs: number,
  clock: Clock,
): Promise<StoredKey> {
  await owner.ask(
    `mutation ($input: UpdateServiceAccountInput!) { updateServiceAccount(input: $input) { id } }`,
    { input: { id: holderId, expiresAt: inMs(clock, ownerLifetimeMs) } },
    z.object({ updateServiceAccount: z.object({ id: z.string() }) }),
  );
  const { rotateApiKey } = await owner.ask(
    `mutation ($input: RotateApiKeyInput!) { rotateApiKey(input: $input) { apiKey { id expiresAt } secret } }`,
    { input: { id: key.id, expiresAt: inMs(clock, lifetimeMs) } },
    z.object({ rotateApiKey: Issued }),
  );
  return stored(rotateApiKey);
}

const pageSize = 200;
const Named = z.object({ node: z.object({ id: z.string(), name: z.string() }) });
const Page = z.object({
  edges: z.array(Named),
  pageInfo: z.object({ hasNextPage: z.boolean(), endCursor: z.string().nullable() }),
});

/** The id of the first object of that name in a list that has no filter by name. */
async function idByName(
  owner: GraphqlClient,
  list: 'groups' | 'serviceAccounts',
  name: string,
): Promise<string | undefined> {
  const document = `query ($first: Int!, $after: String) {
    page: ${list}(first: $first, after: $after) { edges { node { id name } } pageInfo { hasNextPage endCursor } }
  }`;
  for (let cursor: string | null = null; ; ) {
    const variables: Readonly<Record<string, unknown>> = { first: pageSize, after: cursor };
    const { page }: { page: z.infer<typeof Page> } = await owner.ask(document, variables, z.object({ page: Page }));
    const found = page.edges.find(({ node }) => node.name === name);
    if (found !== undefined) return found.node.id;
    if (!page.pageInfo.hasNextPage) return undefined;
    cursor = page.pageInfo.endCursor;
  }
}

async function ensureServiceAccount(owner: GraphqlClient, clock: Clock): Promise<string> {
  const known = await idByName(owner, 'serviceAccounts', clientAccountName);
  if (known !== undefined) return known;
  const input = {
    name: clientAccountName,
    description: 'The client whose key "start" prints.',
    expiresAt: inMs(clock, ownerLifetimeMs),
  };
  const { createServiceAccount } = await owner.ask(
    `mutation ($input: CreateServiceAccountInput!) { createServiceAccount(input: $input) { id } }`,
    { input },
    z.object({ createServiceAccount: z.object({ id: z.string() }) }),
  );
  return createServiceAccount.id;
}

async function ensureGroup(owner: GraphqlClient): Promise<string> {
  const known = await idByName(owner, 'groups', clientGroupName);
  if (known !== undefined) return known;
  const { createGroup } = await owner.ask(
    `mutation ($input: CreateGroupInput!) { createGroup(input: $input) { id } }`,
    { input: { name: clientGroupName, description: 'Whoever tries the example servers.' } },
    z.object({ createGroup: z.object({ id: z.string() }) }),
  );
  return createGroup.id;
}

function leftMs(key: StoredKey | undefined, clock: Clock): number {
  return key === undefined ? 0 : Date.parse(key.expiresAt) - clock.now();
}

function inMs(clock: Clock, ms: number): string {
  return new Date(clock.now() + ms).toISOString();
}

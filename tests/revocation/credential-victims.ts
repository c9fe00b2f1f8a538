/** Somebody who calls with a credential that the gateway has, and the change that ends it: one of each kind. */
import { randomUUID } from 'node:crypto';
import { systemClock } from '@sallyport/schema/platform';
import { decodeJwt } from 'jose';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { type ConnectingPlane, connect, type Somebody, somebody, withKeys } from '../credentials/connecting-kit.ts';
import { FakeAuthorizationServer } from '../credentials/fake-authorization-server.ts';
import { ScimClient } from '../identity/scim-kit.ts';
import { startEchoUpstream } from '../kit/echo-upstream.ts';
import { endSessionAt, tokenOf } from '../oauth/federation-kit.ts';
import { createKey, identified, modernVictim, nothing, resources, tools, type Victim, type World } from './victims.ts';

const userKinds = [
  'account disconnected',
  'user with account deactivated',
  'user with account deactivated by SCIM',
] as const;
const serverKinds = [
  'server of account moved',
  'server of account removed',
  'credential mode removed',
  'client of accounts replaced',
  'secret of service replaced',
] as const;
export const credentialKinds = [...userKinds, 'login at the identity provider ended', ...serverKinds] as const;
export type CredentialKind = (typeof credentialKinds)[number];

interface Registered {
  readonly id: string;
  readonly slug: string;
}

/** Servers that are called with what the gateway has of each user. */
export interface CredentialWorld extends World {
  readonly plane: ConnectingPlane;
  readonly as: FakeAuthorizationServer;
  /** Of the server that is called, and of one that another can move to. */
  readonly upstreamUrl: string;
  readonly elsewhereUrl: string;
  /** Who registers the servers; they are looked at with what the gateway has of her. */
  readonly ada: Somebody;
  /** Of which users connect accounts. */
  readonly connectable: Registered;
  /** That is called by the word of the identity provider. */
  readonly asserted: Registered;
  readonly scim: ScimClient;
}

/** What has to run before the control plane does, since that must be allowed to dial it. */
export interface CredentialOutside {
  readonly as: FakeAuthorizationServer;
  readonly elsewhereUrl: string;
  readonly urls: readonly string[];
  stop(): Promise<void>;
}

export async function startCredentialOutside(): Promise<CredentialOutside> {
  const as = await new FakeAuthorizationServer().start();
  const elsewhere = await startEchoUpstream();
  return {
    as,
    elsewhereUrl: elsewhere.url,
    urls: [as.url, elsewhere.url],
    stop: () => Promise.all([as.stop(), elsewhere.stop()]).then(() => undefined),
  };
}

/** @param upstreamUrl of the MCP server that all calls are for */
export async function createCredentialWorld(
  world: World,
  { as, elsewhereUrl }: Pick<CredentialOutside, 'as' | 'elsewhereUrl'>,
  upstreamUrl: string,
): Promise<CredentialWorld> {
  const { administrator, issuer } = world;
  as.resource = upstreamUrl;
  const plane = { administrator, controlPlane: { graphqlUrl: `${issuer}/graphql` } };
  const logIn = (): Promise<string> => logInAs(world, 'ada', randomUUID());
  const ada = await withKeys(plane, await logIn(), 'Ada');
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  const parts = { plane, as, upstreamUrl, ada };
  return {
    ...world,
    ...parts,
    elsewhereUrl,
    connectable: await register(parts, 'connectable', { userOAuth: clientAt(as) }, (id) => connect(plane, ada, id)),
    // What the provider gave at a login is kept once a server needs it.
    asserted: await register(parts, 'asserted', { identityAssertion: confidentialClientAt(as) }, logIn),
    scim: await createScim(world),
  };
}

const clientAt = ({ url }: FakeAuthorizationServer, clientId = 'gateway') => ({ issuer: url, clientId });
const confidentialClientAt = (as: FakeAuthorizationServer) => ({ ...clientAt(as), secret: 'secret of a client' });

/** @returns the id of the user */
async function logInAs({ users, nodesUrl, slug }: World, subject: string, sessionId: string): Promise<string> {
  users.idp.subject = subject;
  users.idp.claims = { name: subject, sid: sessionId };
  return decodeJwt(await tokenOf(users, `${nodesUrl}/mcp/${slug}`)).sub ?? '';
}

async function createScim({ administrator, issuer }: World): Promise<ScimClient> {
  const input = { name: 'directory', issuer: 'https://directory.example' };
  const { id } = await administrator.mutate('createScimDirectory', input, 'id', identified);
  const expiresAt = new Date(systemClock.now() + 86_400_000).toISOString();
  const token = { directoryId: id, name: 'push', expiresAt };
  const { secret } = await administrator.mutate('createScimToken', token, 'secret', z.object({ secret: z.string() }));
  return new ScimClient(issuer, secret);
}

/** @param prepare brings about what the server is looked at with */
async function register(
  { upstreamUrl: url, ada }: Pick<CredentialWorld, 'upstreamUrl' | 'ada'>,
  slug: string,
  mode: object,
  prepare: (id: string) => Promise<unknown> = nothing,
): Promise<Registered> {
  const asAda = new Administrator(ada.api, 0);
  const { id } = await asAda.mutate('createServer', { slug, url }, 'id', identified);
  await asAda.mutate('setServerCredential', { serverId: id, ...mode }, 'mode', z.unknown());
  await prepare(id);
  const found = z.object({ discoveryProblem: z.null() });
  await asAda.mutate('discoverServer', { id }, 'discoveryProblem { code }', found);
  await asAda.mutate('approveServer', { id }, 'id', identified);
  return { id, slug };
}

async function grantTo({ administrator }: World, serverId: string, userId: string): Promise<void> {
  await administrator.grant({ serverId, subject: { kind: 'USER', id: userId }, tools, resources });
}

/** Makes somebody who may call `echo`; what it is given has reached no node yet. */
export function createCredentialVictim(kind: CredentialKind, world: CredentialWorld): Promise<Victim> {
  switch (kind) {
    case 'account disconnected':
    case 'user with account deactivated':
    case 'user with account deactivated by SCIM':
      return createUser(kind, world);
    case 'login at the identity provider ended':
      return createLoggedIn(kind, world);
    default:
      return createServer(kind, world);
  }
}

async function createUser(kind: (typeof userKinds)[number], world: CredentialWorld): Promise<Victim> {
  const { administrator, plane, scim, connectable } = world;
  const isPushed = kind === 'user with account deactivated by SCIM';
  const who = isPushed
    ? await withKeys(plane, (await scim.createUser(`${randomUUID()}@example.com`)).id, kind)
    : await somebody(plane, kind);
  await grantTo(world, connectable.id, who.id);
  const { status } = await connect(plane, who, connectable.id);
  if (status !== 200) throw new Error(`the account was not connected: ${status}`);
  const accounts = z.object({
    upstreamAccounts: z.object({ edges: z.tuple([z.object({ node: identified })]) }),
  });
  const { upstreamAccounts } = await who.api.ask('{ upstreamAccounts { edges { node { id } } } }', {}, accounts);
  const accountId = upstreamAccounts.edges[0].node.id;
  const deactivation = [{ op: 'Replace', path: 'active', value: 'False' }];
  const revoke = {
    'account disconnected': () => new Administrator(who.api, 0).mutate('disconnect', { accountId }, 'id', identified),
    'user with account deactivated': () =>
      administrator.mutate('updateUser', { id: who.id, status: 'DISABLED' }, 'id', identified),
    'user with account deactivated by SCIM': async () => {
      const { status } = await scim.patch(`/Users/${who.id}`, deactivation);
      if (status !== 200) throw new Error(`not deactivated: ${status}`);
    },
  }[kind];
  return { kind, ...modernVictim(connectable.slug, who.key), revoke, restore: nothing };
}

/** Somebody whose key goes on where his login does not. */
async function createLoggedIn(kind: CredentialKind, world: CredentialWorld): Promise<Victim> {
  const { asserted, users } = world;
  const sessionId = randomUUID();
  const id = await logInAs(world, `user of ${sessionId}`, sessionId);
  await grantTo(world, asserted.id, id);
  const key = await createKey(world, id);
  const revoke = () => endSessionAt(users, sessionId);
  return { kind, ...modernVictim(asserted.slug, key), revoke, restore: nothing };
}

/** Ada at a server of her own. */
async function createServer(kind: (typeof serverKinds)[number], world: CredentialWorld): Promise<Victim> {
  const { plane, as, ada, elsewhereUrl } = world;
  const isOfService = kind === 'secret of service replaced';
  const headers = (secret: string) => ({ staticHeaders: { headers: [{ name: 'Authorization', value: secret }] } });
  const mode = isOfService ? headers('first') : { userOAuth: clientAt(as) };
  const prepare = isOfService ? nothing : (serverId: string) => connect(plane, ada, serverId);
  const { id, slug } = await register(world, `ends-${randomUUID()}`, mode, prepare);
  await grantTo(world, id, ada.id);
  const asAda = new Administrator(ada.api, 0);
  const remove = (): Promise<unknown> => asAda.mutate('deleteServer', { id }, 'id', identified);
  const put = (verb: 'set' | 'rotate', other: object) => () =>
    asAda.mutate(`${verb}ServerCredential`, { serverId: id, ...other }, 'mode', z.unknown());
  const revoke = {
    'server of account moved': () => asAda.mutate('updateServer', { id, url: elsewhereUrl }, 'id', identified),
    'server of account removed': remove,
    'credential mode removed': () => asAda.mutate('deleteServerCredential', { serverId: id }, 'mode', z.unknown()),
    'client of accounts replaced': put('set', { userOAuth: clientAt(as, 'another') }),
    'secret of service replaced': put('rotate', headers('second')),
  }[kind];
  const restore = kind === 'server of account removed' ? nothing : remove;
  return { kind, ...modernVictim(slug, ada.key), revoke, restore };
}

/** Somebody who may call a tool, and the change that takes it from him: one of each kind of revocation. */
import { systemClock } from '@sallyport/schema/platform';
import { decodeJwt } from 'jose';
import { z } from 'zod';
import type { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { endSessionAt, type FederatedUsers, tokenOf } from '../oauth/federation-kit.ts';

export const revocationKinds = [
  'user deactivated',
  'membership removed',
  'grant ended',
  'grant changed',
  'key revoked',
  'service account disabled',
  'server disabled',
  'legacy session ended',
  'authorization revoked',
  'logged out at the identity provider',
] as const;
export type RevocationKind = (typeof revocationKinds)[number];

/** What a call is made of; the same bytes go to every runtime. */
export interface Call {
  readonly slug: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export interface Victim {
  readonly kind: string;
  /** A call with a nonce of its own. */
  call(nonce: string): Call;
  /** Opens a stream that stays open: a subscription, or a legacy session's own. */
  readonly stream: { readonly method: 'GET' | 'POST' } & Omit<Call, 'body'> & { readonly body: string | null };
  /** Resolves when the mutation was answered. */
  revoke(): Promise<unknown>;
  /** Puts back what other trials need. */
  restore(): Promise<unknown>;
}

export interface World {
  readonly administrator: Administrator;
  /** Where callers and their grants are. */
  readonly serverId: string;
  readonly slug: string;
  /** A server that is disabled and approved again. */
  readonly disposable: { readonly id: string; readonly slug: string };
  /** Opens a legacy session once the key has reached a node; any serves it. */
  openSession(slug: string, key: string): Promise<string>;
  /** Of the authorization server, and under which its resources lie. */
  readonly issuer: string;
  readonly nodesUrl: string;
  readonly users: FederatedUsers;
}

export const identified = z.object({ id: z.string() });
const prefix = 'io.modelcontextprotocol/';
const envelope = {
  [`${prefix}protocolVersion`]: '2026-07-28',
  [`${prefix}clientInfo`]: { name: 'revocation', version: '1.0.0' },
  [`${prefix}clientCapabilities`]: {},
};
const accept = 'application/json, text/event-stream';
export const tools = ['echo'];
/** What the stream is about: without a right to it the stream ends, whatever else is left. */
export const resources = ['file:///inbox'];

export function modernVictim(slug: string, key: string): Pick<Victim, 'call' | 'stream'> {
  const headers = {
    authorization: `Bearer ${key}`,
    accept,
    'content-type': 'application/json',
    'mcp-protocol-version': '2026-07-28',
  };
  const message = (method: string, params: object) =>
    JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: { ...params, _meta: envelope } });
  return {
    call: (nonce) => ({
      slug,
      headers: { ...headers, 'mcp-method': 'tools/call', 'mcp-name': 'echo' },
      body: message('tools/call', { name: 'echo', arguments: { nonce } }),
    }),
    stream: {
      method: 'POST',
      slug,
      headers: { ...headers, 'mcp-method': 'subscriptions/listen' },
      body: message('subscriptions/listen', { notifications: { resourceSubscriptions: resources } }),
    },
  };
}

function legacyVictim(slug: string, key: string, session: string): Pick<Victim, 'call' | 'stream'> {
  const headers = {
    authorization: `Bearer ${key}`,
    accept,
    'mcp-protocol-version': '2025-11-25',
    'mcp-session-id': session,
  };
  return {
    call: (nonce) => ({
      slug,
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'tools/call',
        params: { name: 'echo', arguments: { nonce } },
      }),
    }),
    stream: { method: 'GET', slug, headers, body: null },
  };
}

export const nothing = (): Promise<void> => Promise.resolve();

const keyLifeMs = 86_400_000;

export async function createKey({ administrator }: World, principalId: string): Promise<string> {
  const expiresAt = new Date(systemClock.now() + keyLifeMs).toISOString();
  const input = { principalId, name: 'revocation', scopes: ['MCP'], expiresAt };
  return (await administrator.mutate('createApiKey', input, 'secret', z.object({ secret: z.string() }))).secret;
}

/** An access token that a client gets by itself, and what revokes it by RFC 7009. */
async function createAuthorization({ administrator, issuer, nodesUrl, slug }: World, serviceAccountId: string) {
  const input = { name: 'revocation', authentication: 'SECRET', serviceAccountId };
  const shape = z.object({ client: identified, secret: z.string() });
  const { client, secret } = await administrator.mutate('createOAuthClient', input, 'client { id } secret', shape);
  const headers = { authorization: `Basic ${btoa(`${client.id}:${secret}`)}` };
  const post = (path: string, form: Readonly<Record<string, string>>) =>
    fetch(`${issuer}${path}`, { method: 'POST', headers, body: new URLSearchParams(form) });
  const asked = { grant_type: 'client_credentials', resource: `${nodesUrl}/mcp/${slug}`, scope: 'mcp' };
  const answer = await (await post('/oauth/token', asked)).json();
  const { access_token: token } = z.object({ access_token: z.string() }).parse(answer);
  const revoke = async (): Promise<void> => {
    const { status } = await post('/oauth/revoke', { token });
    if (status !== 200) throw new Error(`not revoked: ${status}`);
  };
  return { token, revoke };
}

/** Somebody who logged in at the identity provider, by whose word it ends. */
async function createFederated({ administrator, serverId, slug, nodesUrl, users }: World): Promise<Victim> {
  const sessionId = crypto.randomUUID();
  users.idp.subject = `user of ${sessionId}`;
  users.idp.claims = { name: 'Ada', sid: sessionId };
  const token = await tokenOf(users, `${nodesUrl}/mcp/${slug}`);
  const subject = { kind: 'USER', id: decodeJwt(token).sub ?? '' } as const;
  await administrator.grant({ serverId, subject, tools, resources });
  const revoke = () => endSessionAt(users, sessionId);
  return { kind: 'logged out at the identity provider', ...modernVictim(slug, token), revoke, restore: nothing };
}

/** Makes somebody who may call `echo`; what it is given has reached no node yet. */
export async function createVictim(kind: RevocationKind, world: World): Promise<Victim> {
  const { administrator, serverId, slug } = world;
  const change = (name: string, input: object) => administrator.mutate(name, { ...input }, 'id', identified);
  if (kind === 'user deactivated') {
    const { id } = await change('createUser', { name: kind });
    const key = await createKey(world, id);
    await administrator.grant({ serverId, subject: { kind: 'USER', id }, tools, resources });
    const revoke = () => change('updateUser', { id, status: 'DISABLED' });
    return { kind, ...modernVictim(slug, key), revoke, restore: nothing };
  }
  if (kind === 'logged out at the identity provider') return createFederated(world);
  const { principalId, keyId, key } = await administrator.createClient(kind);
  const subject = { kind: 'SERVICE_ACCOUNT', id: principalId } as const;
  const victim = { kind, ...modernVictim(slug, key), restore: nothing };
  switch (kind) {
    case 'membership removed': {
      const { id } = await change('createGroup', { name: `group of ${principalId}` });
      const membership = { id, principalIds: [principalId] };
      const document = (verb: string) =>
        `mutation ($input: GroupMembersInput!) { answer: ${verb}GroupMembers(input: $input) { id } }`;
      const members = (verb: 'add' | 'remove') =>
        administrator.api.ask(document(verb), { input: membership }, z.object({ answer: identified }));
      await members('add');
      await administrator.grant({ serverId, subject: { kind: 'GROUP', id }, tools, resources });
      return { ...victim, revoke: () => members('remove') };
    }
    case 'server disabled': {
      const { disposable } = world;
      const document = (verb: string) =>
        `mutation ($input: ServerInput!) { answer: ${verb}Server(input: $input) { id } }`;
      const serve = (verb: 'disable' | 'approve') =>
        administrator.api.ask(document(verb), { input: { id: disposable.id } }, z.object({ answer: identified }));
      await administrator.grant({ serverId: disposable.id, subject, tools, resources });
      const revoke = () => serve('disable');
      return { kind, ...modernVictim(disposable.slug, key), revoke, restore: () => serve('approve') };
    }
    default:
      break;
  }
  const grantId = await administrator.grant({ serverId, subject, tools, resources });
  switch (kind) {
    case 'grant ended':
      return { ...victim, revoke: () => change('deleteGrant', { id: grantId }) };
    case 'grant changed':
      return { ...victim, revoke: () => change('updateGrant', { id: grantId, tools: ['other'], resources: [] }) };
    case 'key revoked':
      return { ...victim, revoke: () => change('revokeApiKey', { id: keyId }) };
    case 'service account disabled':
      return { ...victim, revoke: () => change('updateServiceAccount', { id: principalId, status: 'DISABLED' }) };
    case 'legacy session ended': {
      const session = await waitFor('the session is opened', () => world.openSession(slug, key));
      const document = 'mutation ($id: ID!) { endSessions(input: { principalId: $id }) { authorizations } }';
      const revoke = () => administrator.api.ask(document, { id: principalId }, z.unknown());
      return { ...victim, ...legacyVictim(slug, key, session), revoke };
    }
    case 'authorization revoked': {
      const { token, revoke } = await createAuthorization(world, principalId);
      return { ...victim, ...modernVictim(slug, token), revoke };
    }
    default:
      return kind satisfies never;
  }
}

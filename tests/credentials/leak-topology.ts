import { createLog } from '@sallyport/schema/platform';
import type { CredentialMode } from '@sallyport/schema';
import { z } from 'zod';
import { type Actor, actorWith, capturing } from '../capture/capture-kit.ts';
import { Administrator } from '../kit/administrator.ts';
import { canaryMaker } from '../kit/canaries.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type HttpSseUpstream, startHttpSseUpstream } from '../kit/http-sse-upstream.ts';
import { startSyncProxy, type SyncProxy } from '../kit/sync-proxy.ts';
import { startWebhookReceiver, type WebhookReceiver } from '../kit/webhook-receiver.ts';
import { Browser } from '../oauth/browser.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from '../oauth/fake-identity-provider.ts';
import { connectUsers, type FederatedUsers } from '../oauth/federation-kit.ts';
import { connect, federated, logIn, type Somebody } from './connecting-kit.ts';
import { identified, keyFile, registerWith } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';
import { type Channel, LeakWatch } from './leak-watch.ts';

const canary = canaryMaker();
/** Secrets of the gateway's own. */
export const ours = { 'header of a service': canary(), 'secret of a client': canary() };

const loginS = 3_600;

export interface Topology {
  readonly harness: Harness;
  readonly watch: LeakWatch;
  readonly as: FakeAuthorizationServer;
  readonly idp: FakeIdentityProvider;
  readonly users: FederatedUsers;
  /** Speaks every era. */
  readonly upstream: FakeUpstream;
  readonly upstreams: readonly FakeUpstream[];
  readonly old: HttpSseUpstream;
  /** Where a redirect of an upstream would lead. */
  readonly elsewhere: FakeUpstream;
  readonly asked: WebhookReceiver;
  readonly told: WebhookReceiver;
  readonly sync: SyncProxy;
  /** Who may use everything, and has what each mode wants of a user. */
  readonly ada: Somebody;
  readonly auditor: Actor;
  readonly serverIds: ReadonlyMap<string, string>;
  stop(): Promise<void>;
}

interface Mode {
  readonly slug: string;
  readonly mode: CredentialMode;
  readonly input: Readonly<Record<string, unknown>> | null;
  /** How what the upstream is shown begins; null where it is shown nothing. */
  readonly shows: string | null;
}

/** A server for each way of calling one, all of which are one upstream. */
export function modesOf(issuer: string): readonly Mode[] {
  const client = { issuer, clientId: 'gateway', secret: ours['secret of a client'] };
  const signing = { issuer, clientId: 'by-signature', authentication: 'PRIVATE_KEY_JWT' };
  const headers = [{ name: 'Authorization', value: `Bearer ${ours['header of a service']}` }];
  const claims = ['NAME', 'EMAIL', 'GROUPS'];
  return [
    { slug: 'open', mode: 'none', input: null, shows: null },
    { slug: 'own', mode: 'staticHeaders', input: { staticHeaders: { headers } }, shows: headers[0]?.value ?? null },
    { slug: 'service', mode: 'clientCredentials', input: { clientCredentials: client }, shows: 'Bearer cc_' },
    { slug: 'signed', mode: 'clientCredentials', input: { clientCredentials: signing }, shows: 'Bearer cc_' },
    { slug: 'personal', mode: 'userOAuth', input: { userOAuth: client }, shows: 'Bearer at_' },
    {
      slug: 'exchanged',
      mode: 'tokenExchange',
      input: { tokenExchange: { ...client, namesActor: true } },
      shows: 'Bearer tx_',
    },
    { slug: 'asserted', mode: 'identityAssertion', input: { identityAssertion: client }, shows: 'Bearer ja_' },
    { slug: 'told', mode: 'identityToken', input: { identityToken: { claims } }, shows: 'Bearer eyJ' },
  ];
}

/** What an upstream of some era or transport is called with, where that is not what it is about. */
const staticMode = modesOf('')[1]?.input ?? null;

/** All parts on which something could come to light, each process with its log at its most talkative. */
export async function startTopology(): Promise<Topology> {
  const watch = new LeakWatch();
  const as = await new FakeAuthorizationServer().start();
  const [upstream, legacy, modern, elsewhere] = await Promise.all([
    startFakeUpstream(),
    startFakeUpstream({ eras: 'legacy' }),
    startFakeUpstream({ eras: 'modern' }),
    startFakeUpstream(),
  ]);
  const old = await startHttpSseUpstream();
  const [asked, told] = [await startWebhookReceiver(), await startWebhookReceiver()];
  const idp = await startFakeIdentityProvider('http://127.0.0.1');
  const sync = await startSyncProxy('');
  const endWatch = watch.watchPeers();
  as.resource = upstream.url;
  upstream.guard(isWelcome, `Bearer resource_metadata="${as.url}/prm"`);
  const logOf = (name: string) =>
    createLog({ name, level: 'trace' }, { write: (line) => watch.add(`log of ${name}` as Channel, line) });
  const harness = await startHarness({
    upstreams: [upstream, legacy, modern, elsewhere, old, asked, told, as, { url: idp.issuer }].map(({ url }) => url),
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    authorizationServer: true,
    logOf,
    // What reads requests and what writes them is of each kind.
    httpEngines: ['wire', 'libraries'],
    syncUrlFor: (url) => {
      sync.target = url;
      return sync.url;
    },
  });
  const { administrator } = harness;
  const users = await connectUsers(administrator, idp, new URL(harness.controlPlane.graphqlUrl ?? '').origin);
  idp.claims = { sid: 'first', exp: Math.floor(Date.now() / 1000) + loginS };
  const ada = await federated(harness, users);
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  const upstreams = [upstream, legacy, modern];
  const parts = { harness, watch, as, idp, users, upstream, upstreams, old, elsewhere, asked, told, sync, ada };
  const serverIds = await registerServers(parts, { legacy: legacy.url, modern: modern.url, old: old.url });
  await createPolicies(harness, asked, told);
  const auditor = await actorWith(harness, 'AUDITOR');
  await administrator.converged();
  const stop = async (): Promise<void> => {
    await harness.stop();
    endWatch();
    for (const part of [...upstreams, elsewhere, old, asked, told, as, idp, sync]) await part.stop();
  };
  return { ...parts, auditor, serverIds, stop };
}

/** Whoever shows anything; at one of the servers whoever shows nothing. */
export const isWelcome: Parameters<FakeUpstream['guard']>[0] = ({ headers, path }) =>
  path.endsWith('/open') || headers.authorization !== undefined;

type Registering = Pick<Topology, 'harness' | 'as' | 'users' | 'upstream' | 'ada'>;

async function registerServers(
  { harness, as, users, upstream, ada }: Registering,
  others: Readonly<Record<string, string>>,
): Promise<ReadonlyMap<string, string>> {
  const asAda = new Administrator(ada.api, harness.nodes.length);
  const ready: Readonly<Partial<Record<CredentialMode, (serverId: string) => Promise<unknown>>>> = {
    userOAuth: (serverId) => connect(harness, ada, serverId),
    identityAssertion: () => logIn(new Browser(), `${users.issuer}/oauth/account`),
  };
  const ids = new Map<string, string>();
  for (const { slug, mode, input } of modesOf(as.url)) {
    const url = mode === 'none' ? `${upstream.url}/open` : upstream.url;
    ids.set(slug, await registerWith(asAda, { slug, url }, input, ready[mode]));
  }
  for (const [slug, url] of Object.entries(others)) {
    ids.set(slug, await registerWith(asAda, { slug, url }, staticMode));
  }
  for (const serverId of ids.values()) await harness.administrator.grant({ serverId, tools: ['count'] });
  return ids;
}

async function createPolicies(harness: Harness, asked: WebhookReceiver, told: WebhookReceiver): Promise<void> {
  const { administrator } = harness;
  const create = async (input: Readonly<Record<string, unknown>>): Promise<string> =>
    (await administrator.mutate('createWebhook', input, 'webhook { id }', z.object({ webhook: identified }))).webhook
      .id;
  await create({ name: 'told', url: told.url, events: ['AUDIT_BATCH'] });
  const hook = await create({
    name: 'asked',
    url: asked.url,
    events: ['REQUEST', 'RESPONSE'],
    content: 'FULL',
    mode: 'ENFORCE',
  });
  const policy = { name: 'asks', rules: [], webhookIds: [hook], webhookBudgetMs: 5_000, mode: 'ENFORCE' };
  await administrator.mutate('createPolicy', policy, '__typename', z.unknown());
  await capturing(harness);
}

/**
 * The official suite's client scenarios on authorization, with the gateway as the client: a control plane that finds out
 * who issues tokens, a user who connects his account on its page, and a node that calls with it.
 */
import { createGraphqlClient } from '@sallyport/cli';
import { z } from 'zod';
import { credential, credentialFields, identified, keyFile } from '../credentials/credential-kit.ts';
import { Administrator } from '../kit/administrator.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { Browser, formOf, type Shown } from '../oauth/browser.ts';
import { onServer } from './client-leg.ts';
import { failedChecks, scoredScenarios, type SuiteRevision } from './run-suite.ts';

export interface AuthResult {
  readonly revision: SuiteRevision;
  readonly scenarios: number;
  /** Scenarios that failed, with the checks that did. */
  readonly failed: ReadonlyMap<string, readonly string[]>;
}

export const authRevisions: readonly SuiteRevision[] = ['2025-11-25', '2026-07-28'];

export function authScenarios(revision: SuiteRevision): readonly string[] {
  return scoredScenarios(revision, 'client').filter((scenario) => scenario.startsWith('auth/'));
}

/** What is not passed, by scenario; each with the reason. */
export const expectedAuthFailures: Readonly<Record<string, string>> = {};

/** The one document by which the suite knows a client; the gateway's own lies at its public URL. */
const documentOfTheSuite = 'https://conformance-test.local/client-metadata.json';
const anywhere = '127.0.0.0/8:1-65535,[::1]/128:1-65535';
const connectsMax = 3;

const discovered = z.object({ discoverServer: z.object({ discoveryProblem: z.unknown() }) });
const handedOut = z.object({ client_id: z.string(), client_secret: z.string(), issuer: z.string() });

/** The gateway with one user, who administers it too. */
export class AuthLeg {
  private readonly harness: Harness;
  private readonly user: Administrator;
  private readonly userId: string;
  private readonly key: string;
  private readonly browser = new Browser();
  private count = 0;

  private constructor(harness: Harness, user: Administrator, who: { readonly userId: string; readonly key: string }) {
    this.harness = harness;
    this.user = user;
    this.userId = who.userId;
    this.key = who.key;
  }

  static async start(): Promise<AuthLeg> {
    const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
    const harness = await startHarness({
      upstreams: [],
      egressAllow: anywhere,
      nodes: 1,
      environment,
      authorizationServer: true,
    });
    const { administrator, controlPlane } = harness;
    const { id: userId } = await administrator.mutate('createUser', { name: 'Ada' }, 'id', identified);
    await administrator.mutate('assignRole', { principalId: userId, role: 'ADMIN' }, '__typename', z.unknown());
    const keyOf = async (scope: string): Promise<string> => {
      const expiresAt = new Date(Date.now() + 86_400_000).toISOString();
      const input = { principalId: userId, name: scope, scopes: [scope], expiresAt };
      return (await administrator.mutate('createApiKey', input, 'secret', z.object({ secret: z.string() }))).secret;
    };
    const api = createGraphqlClient(controlPlane.graphqlUrl ?? '', await keyOf('API'));
    return new AuthLeg(harness, new Administrator(api, 1), { userId, key: await keyOf('MCP') });
  }

  stop(): Promise<void> {
    return this.harness.stop();
  }

  async run(revision: SuiteRevision, scenarios = authScenarios(revision)): Promise<AuthResult> {
    const failed = new Map<string, readonly string[]>();
    for (const scenario of scenarios) {
      const use = (url: string, context: string) => this.drive(scenario, url, context);
      const checks = await onServer(scenario, revision, 'auth', use, 'localhost');
      const failures = failedChecks(checks);
      const isPassed = failures.length === 0 && checks.some(({ status }) => status === 'SUCCESS');
      if (!isPassed)
        failed.set(
          scenario,
          failures.map(({ id, problem }) => `${id}: ${problem ?? ''}`),
        );
    }
    return { revision, scenarios: scenarios.length, failed };
  }

  /** Registers the server, connects the account as often as the server wants it, puts it into service, and calls its tool. */
  private async drive(scenario: string, url: string, context: string): Promise<void> {
    this.count += 1;
    const slug = `auth-${this.count}`;
    const serverId = (await this.user.mutate('createServer', { slug, url }, 'id', identified)).id;
    const userOAuth = await clientFor(scenario, url, context);
    await this.user.mutate('setServerCredential', { serverId, userOAuth }, credentialFields, credential);
    let isDiscovered = false;
    // Some servers want another account, or more of it, once they have seen the first.
    for (let connects = 0; !isDiscovered && connects < 2; connects++) {
      // What the page refuses is what many scenarios are about: the suite judges what was sent, and what was not.
      if (!(await this.connect(serverId))) return;
      isDiscovered = await this.discover(serverId);
    }
    if (!isDiscovered) return;
    await this.user.mutate('approveServer', { id: serverId }, 'id', identified);
    await this.harness.administrator.grant({ serverId, tools: ['*'] });
    await this.harness.administrator.converged();
    for (let connects = 0; connects < connectsMax && (await this.call(slug)) === 'connect'; connects++) {
      if (!(await this.connect(serverId))) return;
    }
  }

  private async discover(serverId: string): Promise<boolean> {
    const discover = 'mutation ($input: ServerInput!) { discoverServer(input: $input) { discoveryProblem { code } } }';
    const { discoverServer } = await this.user.api.ask(discover, { input: { id: serverId } }, discovered);
    return discoverServer.discoveryProblem === null;
  }

  private async call(slug: string): Promise<'done' | 'connect'> {
    const call = { method: 'tools/call', params: { name: 'test-tool', arguments: {} } };
    const { body } = await askModern(this.harness.endpoint(slug, this.key), call);
    return body.includes('/oauth/connect/') ? 'connect' : 'done';
  }

  /** As a browser does it. @returns whether the account is connected */
  private async connect(serverId: string): Promise<boolean> {
    const query = 'query ($id: ID!) { connectLink(serverId: $id) }';
    const { connectLink } = await this.user.api.ask(query, { id: serverId }, z.object({ connectLink: z.string() }));
    const page = await this.open(connectLink);
    const { action, fields } = formOf(page.text);
    const { location } = await this.browser.request(new URL(action, page.url), fields);
    if (location === null) return false;
    const back = await fetch(location, { redirect: 'manual' });
    const answer = back.headers.get('location');
    return answer !== null && (await this.browser.request(answer)).status === 200;
  }

  private async open(url: string): Promise<Shown> {
    const shown = await this.browser.follow(url);
    if (!shown.text.includes('name="code"')) return shown;
    const shape = z.object({ code: z.string() });
    const input = { userId: this.userId };
    const { code } = await this.harness.administrator.mutate('createLoginCode', input, 'code', shape);
    const { action, fields } = formOf(shown.text);
    return this.browser.follow(new URL(action, shown.url), { ...fields, code });
  }
}

/** How the gateway is to be known at the scenario's authorization server, where it cannot see to that by itself. */
async function clientFor(scenario: string, url: string, context: string): Promise<Record<string, string>> {
  if (scenario === 'auth/pre-registration') {
    const { client_id: clientId, client_secret: secret, issuer } = handedOut.parse(JSON.parse(context));
    return { clientId, secret, issuer };
  }
  if (scenario !== 'auth/basic-cimd') return {};
  const { origin, pathname } = new URL(url);
  const named = await fetch(`${origin}/.well-known/oauth-protected-resource${pathname}`);
  const metadata = z.object({ authorization_servers: z.array(z.string()) });
  const [issuer = ''] = metadata.parse(await named.json()).authorization_servers;
  return { clientId: documentOfTheSuite, issuer };
}

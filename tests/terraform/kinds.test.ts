import { randomSecret } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { keyFile } from '../credentials/credential-kit.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform, type Provider, type Workspace, workspaceFor } from '../kit/terraform.ts';

const timeoutMs = 300_000;

let harness: Harness;
let upstream: ReferenceServer;
let provider: Provider;
let serverId: string;

const newWorkspace = (text: string): Workspace => workspaceFor(harness, provider, { 'main.tf': text });

/**
 * Applies a configuration, changes it in place, imports it into an empty state by natural keys, and destroys it; wherever
 * it was applied there is no difference. Returns what the destruction told.
 */
async function lives(texts: readonly [string, string], imports: Readonly<Record<string, string>>): Promise<string> {
  const first = newWorkspace(texts[0]);
  await first.apply();
  expect(await first.plan()).toMatchObject({ code: 0 });
  first.write({ 'main.tf': texts[1] });
  const changed = await first.plan();
  expect(changed.output).toContain('0 to add, 1 to change, 0 to destroy');
  await first.apply();
  expect(await first.plan()).toMatchObject({ code: 0 });
  const second = newWorkspace(texts[1]);
  for (const [address, key] of Object.entries(imports)) await second.succeed('import', [address, key]);
  const imported = await second.plan();
  expect(imported.output).toContain('No changes.');
  return second.destroy();
}

describe.skipIf(!hasTerraform('the kinds that Terraform manages'))('from apply to destroy', () => {
  beforeAll(async () => {
    upstream = await startReferenceServer();
    harness = await startHarness({
      upstreams: [upstream.url],
      nodes: 1,
      environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
      authorizationServer: true,
    });
    serverId = (await harness.administrator.registerServer('shared', upstream.url)).id;
    provider = await buildProvider();
  }, timeoutMs);
  afterAll(async () => {
    provider?.remove();
    await harness?.stop();
    await upstream?.stop();
  });

  test(
    'policies are as the configuration says, with and without a match',
    async () => {
      const policies = (action: string) => `
        resource "sallyport_policy" "everything" {
          name  = "everything"
          rules = [{ detector = "secret", action = "label" }]
        }
        resource "sallyport_policy" "some" {
          name                 = "some"
          mode                 = "enforce"
          position             = 7
          inspected_length_max = 4096
          on_too_large         = "allow"
          match = {
            directions    = ["response"]
            server_ids    = ["${serverId}"]
            server_labels = { team = "one" }
            tools         = ["get_*", "search*"]
            risk_min      = "medium"
          }
          rules = [
            { detector = "personal_data", action = "${action}", severity_min = "high" },
            { detector = "hidden_text", action = "label" },
          ]
        }
      `;
      const imports = { 'sallyport_policy.everything': 'everything', 'sallyport_policy.some': 'some' };
      expect(await lives([policies('block'), policies('redact')], imports)).toContain('2 destroyed');
    },
    timeoutMs,
  );

  test(
    'what policies capture is as the configuration says, also where it is all they do, and ends where it is taken out',
    async () => {
      const policies = (capture: string) => `
        resource "sallyport_policy" "keeps" {
          name    = "keeps"
          mode    = "enforce"
          rules   = []
          capture = { directions = ["request"] }
        }
        resource "sallyport_policy" "both" {
          name  = "both"
          rules = [{ detector = "secret", action = "label" }]
          ${capture}
        }
      `;
      const imports = { 'sallyport_policy.keeps': 'keeps', 'sallyport_policy.both': 'both' };
      const capture = 'capture = { directions = ["request", "response"], bytes_max = 2048, retention_days = 7 }';
      expect(await lives([policies(capture), policies('')], imports)).toContain('2 destroyed');
    },
    timeoutMs,
  );

  test(
    'all that the API refuses is told, each on the element of the nested block or list that is wrong',
    async () => {
      const { code, output } = await newWorkspace(`
        resource "sallyport_policy" "bad" {
          name  = "bad"
          match = { server_ids = ["${serverId}", "nowhere"] }
          rules = [
            { detector = "secret", action = "label" },
            { detector = "secret", action = "block", categories = ["no such"] },
          ]
          webhook_ids = ["00000000-0000-4000-8000-000000000001"]
        }
        resource "sallyport_authorization_server" "bad" {
          client_domains = ["example.com", "https://example.com"]
          step_up = [
            { server_id = "${serverId}", max_age_seconds = 600 },
            { server_id = "${serverId}", acr_values = ["with space"] },
          ]
        }
        resource "sallyport_credential" "bad" {
          server_id  = "${serverId}"
          user_oauth = { authorization_hosts = ["login.example.com", "no host"] }
        }
      `).plan();
      expect(code).toBe(1);
      const told = output.replace(/\s+/g, ' ');
      expect(told).toContain('rules[1].categories: "no such" is none of what');
      expect(told).toContain('rules[1] is never reached');
      expect(told).toContain('match.server_ids: "nowhere" there is no such server');
      expect(told).toContain('webhook_ids[0] there is no such webhook');
      expect(told).toContain('client_domains: "https://example.com" must be a domain');
      expect(told).toMatch(/step_up: server_id of \{[^}]+\} is given twice/);
      expect(told).toContain('user_oauth.authorization_hosts: "no host" must be a host');
      expect(told).toMatch(/step_up: acr_values of \{[^}]*"with space"[^}]*\} must be at most/);
    },
    timeoutMs,
  );

  test(
    'a webhook signs by another key once its version is raised, and by that before until the overlap is over',
    async () => {
      const webhook = (version: number, failMode: string) => `
        resource "sallyport_webhook" "signed" {
          name              = "signed"
          url               = "http://127.0.0.1:1/verdicts"
          events            = ["request", "response"]
          fail_mode         = "${failMode}"
          mutable_paths     = ["/result/content"]
          algorithm         = "ed25519"
          secret_wo_version = ${version}
        }
        output "keys" { value = sallyport_webhook.signed.signing_public_keys }
      `;
      const workspace = newWorkspace(webhook(1, 'closed'));
      await workspace.apply();
      const keys = async () => JSON.parse(await workspace.succeed('output', ['-json', 'keys'])) as string[];
      const [first] = await keys();
      workspace.write({ 'main.tf': webhook(2, 'open') });
      expect((await workspace.plan()).output).toContain('0 to add, 1 to change, 0 to destroy');
      await workspace.apply();
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      expect(await keys()).toHaveLength(2);
      expect(await keys()).toContain(first);
      const refused = await newWorkspace(webhook(1, 'closed').replace('"ed25519"', '"hmac"')).plan();
      expect(refused.output).toMatch(/secret_wo must be set/);
      await workspace.destroy();
    },
    timeoutMs,
  );

  test(
    'an upstream credential is set, replaced and destroyed, and its secret is in no state',
    async () => {
      const credential = (headers: string, version: number) => `
        resource "sallyport_credential" "shared" {
          server_id         = "${serverId}"
          static_headers_wo = ${headers}
          secret_wo_version = ${version}
        }
      `;
      const workspace = newWorkspace(credential('{ Authorization = "Bearer first-secret" }', 1));
      await workspace.apply();
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      const shown = z.object({ revision: z.number(), mode: z.string(), headerNames: z.array(z.string()) });
      const stored = async () =>
        await harness.administrator.api.ask(
          `{ serverCredential(serverId: "${serverId}") { revision mode headerNames } }`,
          {},
          z.object({ serverCredential: shown }),
        );
      const before = (await stored()).serverCredential;
      expect(before).toMatchObject({ mode: 'STATIC_HEADERS', headerNames: ['Authorization'] });

      const again = credential('{ Authorization = "Bearer second-secret", X-Tenant = "one" }', 2);
      workspace.write({ 'main.tf': again });
      expect((await workspace.plan()).output).toContain('0 to add, 1 to change, 0 to destroy');
      await workspace.apply();
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      const after = (await stored()).serverCredential;
      expect(after.headerNames).toEqual(['Authorization', 'X-Tenant']);
      expect(after.revision).toBeGreaterThan(before.revision);
      expect(await workspace.succeed('state', ['pull'])).not.toMatch(/first-secret|second-secret/);

      expect((await newWorkspace(again).plan()).output).toContain('has a credential already');
      const second = newWorkspace(again.replace('secret_wo_version = 2', ''));
      await second.succeed('import', ['sallyport_credential.shared', 'shared']);
      expect((await second.plan()).output).toContain('No changes.');
      await second.destroy();
      expect((await stored()).serverCredential).toMatchObject({ mode: 'NONE' });

      const client = (scope: string) => `
        resource "sallyport_credential" "shared" {
          server_id = "${serverId}"
          client_credentials = {
            issuer    = "https://login.example.com"
            client_id = "gateway"
            scopes    = ["${scope}"]
          }
          secret_wo = "third-secret"
        }
      `;
      const byServer = { 'sallyport_credential.shared': serverId };
      expect(await lives([client('read'), client('write')], byServer)).toContain('1 destroyed');
    },
    timeoutMs,
  );

  test(
    'the modes that speak for the caller are set, changed and imported, and refused in place',
    async () => {
      const mode = (text: string) => `
        resource "sallyport_credential" "shared" {
          server_id = "${serverId}"
          ${text}
        }
      `;
      const exchange = (namesActor: boolean) =>
        mode(`
          token_exchange = {
            issuer      = "https://login.example.com"
            client_id   = "gateway"
            audience    = "the-server"
            names_actor = ${namesActor}
          }
          secret_wo = "fourth-secret"
        `);
      const token = (text: string) => mode(`identity_token = { claims = ["groups"]${text} }`);
      const byServer = { 'sallyport_credential.shared': serverId };
      expect(await lives([exchange(false), exchange(true)], byServer)).toContain('1 destroyed');
      expect(await lives([token(''), token(', lifetime_seconds = 60')], byServer)).toContain('1 destroyed');
      const refused = await newWorkspace(token(', lifetime_seconds = 3600')).plan();
      expect(refused.code).toBe(1);
      expect(refused.output.replace(/\s+/g, ' ')).toContain('identity_token.lifetime_seconds must be 30 to 300');
      const asserted = mode('identity_assertion = { client_id = "gateway" }');
      expect((await newWorkspace(asserted).plan()).output).toContain('identity_assertion.issuer');
    },
    timeoutMs,
  );

  test(
    'directories and identity providers are as the configuration says',
    async () => {
      const rest = (claim: string) => `
        resource "sallyport_scim_directory" "corp" {
          name   = "corp"
          issuer = "https://login.example.com"
        }
        resource "sallyport_group" "analysts" { name = "analysts" }
        resource "sallyport_identity_provider" "corp" {
          name             = "Corp"
          issuer           = "https://login.example.com"
          client_id        = "sallyport"
          client_secret_wo = "fourth-secret"
          groups_claim     = "${claim}"
          required_claims  = { tid = "one" }
          group_rules      = [{ value = "Analysts", group_id = sallyport_group.analysts.id }]
        }
      `;
      const imports = {
        'sallyport_group.analysts': 'analysts',
        'sallyport_scim_directory.corp': 'corp',
        'sallyport_identity_provider.corp': 'Corp',
      };
      expect(await lives([rest('groups'), rest('roles')], imports)).toContain('3 destroyed');
    },
    timeoutMs,
  );

  test(
    'what the authorization server lets clients do is as the configuration says, and no client registers after its end',
    async () => {
      const settings = (age: number) => `
        resource "sallyport_authorization_server" "this" {
          dynamic_registration = true
          client_domains       = ["claude.ai", "*.example.com"]
          step_up              = [{ server_id = "${serverId}", max_age_seconds = ${age} }]
        }
      `;
      const imports = { 'sallyport_authorization_server.this': 'authorization_server' };
      expect(await lives([settings(600), settings(3600)], imports)).toContain('1 destroyed');
      const left = z.object({
        authorizationServer: z.object({ dynamicRegistration: z.boolean(), clientDomains: z.array(z.string()) }),
      });
      const asked = '{ authorizationServer { dynamicRegistration clientDomains } }';
      const { authorizationServer } = await harness.administrator.api.ask(asked, {}, left);
      expect(authorizationServer).toEqual({ dynamicRegistration: false, clientDomains: [] });
    },
    timeoutMs,
  );

  test(
    'an API key opens no more than its limits say, and another limit makes another key',
    async () => {
      const [calling, another, reading] = [randomSecret('sp_'), randomSecret('sp_'), randomSecret('sp_')];
      const key = (network: string, secret: string) => `
        resource "sallyport_user" "ada" {
          name  = "Ada"
          email = "ada@example.com"
        }
        resource "sallyport_service_account" "agent" {
          name       = "limited"
          owner_id   = sallyport_user.ada.id
          expires_at = "2027-11-01T00:00:00Z"
        }
        resource "sallyport_api_key" "calling" {
          principal_id = sallyport_service_account.agent.id
          name         = "calling"
          scopes       = ["mcp"]
          expires_at   = "2027-06-01T00:00:00Z"
          server_ids   = ["${serverId}"]
          networks     = ["${network}"]
          secret_wo    = "${secret}"
        }
        resource "sallyport_api_key" "reading" {
          principal_id = sallyport_service_account.agent.id
          name         = "reading"
          scopes       = ["api"]
          expires_at   = "2027-06-01T00:00:00Z"
          permissions  = ["server:read"]
          secret_wo    = "${reading}"
        }
      `;
      const workspace = newWorkspace(key('10.0.0.0/8', calling));
      await workspace.apply();
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      const imported = newWorkspace(key('10.0.0.0/8', calling));
      await imported.succeed('import', ['sallyport_user.ada', 'ada@example.com']);
      await imported.succeed('import', ['sallyport_service_account.agent', 'limited']);
      await imported.succeed('import', ['sallyport_api_key.calling', 'limited/calling']);
      await imported.succeed('import', ['sallyport_api_key.reading', 'limited/reading']);
      expect((await imported.plan()).output).toContain('No changes.');
      workspace.write({ 'main.tf': key('10.1.0.0/16', another) });
      expect((await workspace.plan()).output).toContain('1 to add, 0 to change, 1 to destroy');
      await workspace.destroy();
    },
    timeoutMs,
  );
});

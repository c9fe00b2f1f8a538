/**
 * One configuration with every kind of resource, and every shape of those that have several: what holds for all of them is
 * tried on all of them at once. A kind without a row fails the first test.
 */
import { randomBytes } from 'node:crypto';
import { randomSecret } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { keyFile } from '../credentials/credential-kit.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform, type Provider, type Workspace, workspaceFor } from '../kit/terraform.ts';

const timeoutMs = 300_000;

/** How somebody else changes an object behind Terraform's back: a mutation and its input. */
type Drift = (
  id: string,
  ids: ReadonlyMap<string, string>,
) => readonly [mutation: string, input: object, fields?: string];
interface Row {
  /** What it is imported by, besides its id. */
  readonly key: string;
  readonly drift: Drift;
  /** What the plan shows of the drift. */
  readonly shown: RegExp;
}

const describes =
  (mutation: string): Drift =>
  (id) => [mutation, { id, description: 'theirs' }];
const revokes =
  (mutation: string): Drift =>
  (id) => [mutation, { id }];
const sets =
  (credential: object): Drift =>
  (serverId) => ['setServerCredential', { serverId, ...credential }, 'revision'];
const isDescribedAnew = /description +=? *"theirs" -> /;
const isMadeAnew = /will be created/;

const rows: Readonly<Record<string, Row>> = {
  'sallyport_api_key.agent': { key: 'agent/agent', drift: revokes('revokeApiKey'), shown: isMadeAnew },
  'sallyport_authorization_server.this': {
    key: 'authorization_server',
    drift: () => ['updateAuthorizationServer', { clientDomains: ['*'] }, 'issuer'],
    shown: /client_domains/,
  },
  'sallyport_credential.headers': {
    key: 'headers',
    drift: sets({ staticHeaders: { headers: [{ name: 'X-Theirs', value: 'theirs' }] } }),
    shown: /X-Theirs/,
  },
  'sallyport_credential.client': {
    key: 'client',
    drift: sets({
      clientCredentials: {
        issuer: 'https://login.example.com',
        clientId: 'gateway',
        authentication: 'CLIENT_SECRET_POST',
        secret: 'theirs',
      },
    }),
    shown: /authentication +=? *"client_secret_post" -> "client_secret_basic"/,
  },
  'sallyport_credential.users': {
    key: 'users',
    drift: sets({ userOAuth: { authorizationHosts: ['theirs.example.com'] } }),
    shown: /"theirs\.example\.com"/,
  },
  'sallyport_credential.exchange': {
    key: 'exchange',
    drift: sets({
      tokenExchange: { issuer: 'https://login.example.com', clientId: 'gateway', secret: 'theirs', namesActor: true },
    }),
    shown: /names_actor +=? *true -> false/,
  },
  'sallyport_credential.asserted': {
    key: 'asserted',
    drift: sets({ identityAssertion: { scopes: ['theirs'] } }),
    shown: /"theirs"/,
  },
  'sallyport_credential.signed': {
    key: 'signed',
    drift: sets({ identityToken: { lifetimeSeconds: 60 } }),
    shown: /lifetime_seconds +=? *60 -> 120/,
  },
  'sallyport_grant.read': {
    key: 'read',
    drift: (id) => ['updateGrant', { id, tools: ['*'], mode: 'SHADOW' }],
    shown: /mode +=? *"shadow" -> "enforce"/,
  },
  'sallyport_group.team': { key: 'team', drift: describes('updateGroup'), shown: isDescribedAnew },
  'sallyport_group_membership.agent': {
    key: 'team/agent',
    drift: (id) => ['removeGroupMembers', { id: id.split('/')[0], principalIds: [id.split('/')[1]] }],
    shown: isMadeAnew,
  },
  'sallyport_identity_provider.corp': {
    key: 'Corp',
    drift: (id) => ['updateIdentityProvider', { id, groupsClaim: 'theirs' }],
    shown: /groups_claim +=? *"theirs" -> "groups"/,
  },
  'sallyport_join_token.nodes': { key: 'nodes', drift: revokes('revokeJoinToken'), shown: isMadeAnew },
  'sallyport_oauth_client.app': { key: 'app', drift: revokes('deleteOAuthClient'), shown: isMadeAnew },
  'sallyport_policy.looks': {
    key: 'looks',
    drift: (id) => [
      'updatePolicy',
      { id, webhookIds: [], webhookBudgetMs: 900, match: { tools: ['theirs'] }, capture: { directions: ['REQUEST'] } },
    ],
    shown: /retention_days +=? *30 -> 7[^]*webhook_budget_ms +=? *900 -> 1500/,
  },
  'sallyport_role.registrar': {
    key: 'registrar',
    drift: (id) => ['updateRole', { id, permissions: ['server:read', 'server:approve'] }],
    shown: /server:approve/,
  },
  'sallyport_role_binding.team': {
    key: 'group:team/registrar',
    drift: (_id, ids) => [
      'removeRole',
      {
        roleId: ids.get('sallyport_role.registrar'),
        groupId: ids.get('sallyport_group.team'),
        serverLabels: [{ key: 'team', value: 'one' }],
      },
    ],
    shown: isMadeAnew,
  },
  'sallyport_scim_directory.corp': {
    key: 'corp',
    drift: (id) => ['updateScimDirectory', { id, name: 'theirs' }],
    shown: /name +=? *"theirs" -> "corp"/,
  },
  'sallyport_scim_token.push': { key: 'corp/push', drift: revokes('revokeScimToken'), shown: isMadeAnew },
  'sallyport_server.reference': {
    key: 'reference',
    drift: (id) => ['disableServer', { id }],
    shown: /lifecycle_state +=? *"disabled" -> "approved"/,
  },
  'sallyport_server.asking': {
    key: 'asking',
    drift: (id) => ['updateServerAsks', { id, sampling: true, elicitation: false }],
    shown: /sampling +=? *true -> false/,
  },
  // What nobody lets it ask, it may not.
  'sallyport_server.quiet': {
    key: 'quiet',
    drift: (id) => ['updateServerAsks', { id, roots: true }],
    shown: /asks +=? *\{[^}]*roots +=? *true -> null[^}]*\} -> null/,
  },
  'sallyport_service_account.agent': {
    key: 'agent',
    drift: describes('updateServiceAccount'),
    shown: isDescribedAnew,
  },
  'sallyport_tool_approval.simple': {
    key: 'reference/test_simple_text',
    drift: (_id, ids) => [
      'quarantineDefinitions',
      { id: ids.get('sallyport_server.reference'), definitionIds: [ids.get('definition')] },
    ],
    shown: /digests/,
  },
  'sallyport_tool_labels.simple': {
    key: 'reference/test_simple_text',
    drift: (_id, ids) => [
      'labelDefinitions',
      {
        id: ids.get('sallyport_server.reference'),
        definitionIds: [ids.get('definition')],
        labels: { risk: 'CRITICAL' },
      },
    ],
    shown: /risk +=? *"critical" -> "low"/,
  },
  'sallyport_user.ada': { key: 'ada@example.com', drift: describes('updateUser'), shown: isDescribedAnew },
  'sallyport_webhook.looks': {
    key: 'looks',
    drift: (id) => ['updateWebhook', { id, failMode: 'OPEN', mutablePaths: [] }],
    shown: /fail_mode +=? *"open" -> "closed"/,
  },
  'sallyport_webhook.signed': {
    key: 'signed',
    drift: (id) => ['updateWebhook', { id, deadlineMs: 60 }],
    shown: /deadline_ms +=? *60 -> 500/,
  },
};

const newSecrets = () => ({
  key: randomSecret('sp_'),
  join: randomSecret('spjoin_'),
  client: randomSecret('sps_'),
  scim: randomSecret('spscim_'),
  webhook: `whsec_${randomBytes(32).toString('base64')}`,
  upstream: randomSecret(''),
});
const secrets = newSecrets();

/** The servers that have a credential, one of each mode. */
const credentialed = ['headers', 'client', 'users', 'exchange', 'asserted', 'signed'];

/** The secrets come from outside, by a variable that Terraform keeps nowhere. */
const organization = `
    variable "url" { type = string }
    variable "secrets" {
      type      = map(string)
      ephemeral = true
    }
    resource "sallyport_server" "reference" {
      slug            = "reference"
      url             = var.url
      labels          = { team = "one" }
      lifecycle_state = "approved"
      owner_group_id  = sallyport_group.team.id
    }
    data "sallyport_server_tools" "reference" { server_id = sallyport_server.reference.id }
    resource "sallyport_tool_approval" "simple" {
      server_id = sallyport_server.reference.id
      name      = "test_simple_text"
      digests   = one([for tool in data.sallyport_server_tools.reference.tools : tool.digests if tool.name == "test_simple_text"])
    }
    resource "sallyport_tool_labels" "simple" {
      server_id = sallyport_server.reference.id
      name      = "test_simple_text"
      risk      = "low"
      read_only = true
    }
    resource "sallyport_server" "asking" {
      slug = "asking"
      url  = var.url
      asks = { elicitation = true, elicitation_hosts = ["login.example.com"], bytes_max = 4096 }
    }
    resource "sallyport_server" "quiet" {
      slug = "quiet"
      url  = var.url
    }
    resource "sallyport_server" "others" {
      for_each = toset(${JSON.stringify(credentialed)})
      slug     = each.key
      url      = var.url
    }
    resource "sallyport_credential" "headers" {
      server_id         = sallyport_server.others["headers"].id
      static_headers_wo = { Authorization = "Bearer \${var.secrets["upstream"]}" }
    }
    resource "sallyport_credential" "client" {
      server_id          = sallyport_server.others["client"].id
      client_credentials = { issuer = "https://login.example.com", client_id = "gateway", scopes = ["read"] }
      secret_wo          = var.secrets["upstream"]
    }
    resource "sallyport_credential" "users" {
      server_id  = sallyport_server.others["users"].id
      user_oauth = { authorization_hosts = ["login.example.com"], scopes = ["read"], required_at_login = true }
    }
    resource "sallyport_credential" "exchange" {
      server_id      = sallyport_server.others["exchange"].id
      token_exchange = { issuer = "https://login.example.com", client_id = "gateway", audience = "tickets" }
      secret_wo      = var.secrets["upstream"]
    }
    resource "sallyport_credential" "asserted" {
      server_id          = sallyport_server.others["asserted"].id
      identity_assertion = { scopes = ["read"] }
    }
    resource "sallyport_credential" "signed" {
      server_id      = sallyport_server.others["signed"].id
      identity_token = { claims = ["email", "groups"] }
    }
    resource "sallyport_user" "ada" {
      name  = "Ada"
      email = "ada@example.com"
    }
    resource "sallyport_group" "team" { name = "team" }
    resource "sallyport_service_account" "agent" {
      name       = "agent"
      owner_id   = sallyport_user.ada.id
      expires_at = "2027-11-01T00:00:00Z"
    }
    resource "sallyport_group_membership" "agent" {
      group_id     = sallyport_group.team.id
      principal_id = sallyport_service_account.agent.id
    }
    resource "sallyport_api_key" "agent" {
      principal_id = sallyport_service_account.agent.id
      name         = "agent"
      scopes       = ["mcp"]
      expires_at   = "2027-06-01T00:00:00Z"
      secret_wo    = var.secrets["key"]
    }
    resource "sallyport_grant" "read" {
      name      = "read"
      subject   = { kind = "group", id = sallyport_group.team.id }
      server_id = sallyport_server.reference.id
      effect    = "allow"
      tools     = ["test_*"]
      limits    = { risk_max = "medium" }
      when      = "principal.id != ''"
      not_after = "2027-06-01T00:00:00+02:00"
      reason    = "They asked"
    }
    resource "sallyport_role" "registrar" {
      name        = "registrar"
      permissions = ["server:read", "server:write"]
    }
    resource "sallyport_role_binding" "team" {
      role_id       = sallyport_role.registrar.id
      group_id      = sallyport_group.team.id
      server_labels = { team = "one" }
    }
    resource "sallyport_webhook" "looks" {
      name          = "looks"
      url           = "http://127.0.0.1:1/looks"
      events        = ["request", "response"]
      mutable_paths = ["/params/arguments"]
      secret_wo     = var.secrets["webhook"]
    }
    resource "sallyport_webhook" "signed" {
      name      = "signed"
      url       = "http://127.0.0.1:1/signed"
      events    = ["request"]
      algorithm = "ed25519"
    }
    resource "sallyport_policy" "looks" {
      name              = "looks"
      match             = { server_ids = [sallyport_server.reference.id], tools = ["test_*"], risk_min = "medium" }
      rules             = [{ detector = "secret", action = "redact" }, { detector = "hidden_text", action = "block" }]
      webhook_ids       = [sallyport_webhook.signed.id, sallyport_webhook.looks.id]
      webhook_budget_ms = 1500
      capture           = { directions = ["request", "response"], bytes_max = 2048, retention_days = 7 }
    }
    resource "sallyport_scim_directory" "corp" {
      name   = "corp"
      issuer = "https://login.example.com"
    }
    resource "sallyport_scim_token" "push" {
      directory_id = sallyport_scim_directory.corp.id
      name         = "push"
      expires_at   = "2027-06-01T00:00:00Z"
      secret_wo    = var.secrets["scim"]
    }
    resource "sallyport_group" "analysts" { name = "analysts" }
    resource "sallyport_identity_provider" "corp" {
      name            = "Corp"
      issuer          = "https://login.example.com"
      client_id       = "sallyport"
      groups_claim    = "groups"
      required_claims = { tid = "one" }
      group_rules     = [{ value = "Analysts", group_id = sallyport_group.analysts.id }]
    }
    resource "sallyport_oauth_client" "app" {
      name               = "app"
      authentication     = "secret"
      service_account_id = sallyport_service_account.agent.id
      secret_wo          = var.secrets["client"]
    }
    resource "sallyport_authorization_server" "this" {
      client_domains = ["claude.ai"]
      step_up        = [{ server_id = sallyport_server.reference.id, max_age_seconds = 600 }]
    }
    resource "sallyport_join_token" "nodes" {
      name       = "nodes"
      uses_max   = 3
      expires_at = "2027-06-01T00:00:00Z"
      secret_wo  = var.secrets["join"]
    }
`;

function valuesOf(secrets: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return { 'values.auto.tfvars.json': JSON.stringify({ url: upstream.url, secrets }) };
}

const stateSchema = z.object({
  values: z.object({
    root_module: z.object({
      resources: z.array(z.object({ address: z.string(), values: z.object({ id: z.string().optional() }) })),
    }),
  }),
});

let harness: Harness;
let upstream: ReferenceServer;
let provider: Provider;
let workspace: Workspace;

/** Ids by address. */
async function idsNow(): Promise<Map<string, string>> {
  const state = stateSchema.parse(JSON.parse(await workspace.succeed('show', ['-json'])));
  const ids = new Map(state.values.root_module.resources.map(({ address, values }) => [address, values.id ?? '']));
  const document =
    '{ servers(slug: "reference") { edges { node { definitions(name: "test_simple_text") { edges { node { id } } } } } } }';
  const identified = z.object({ node: z.object({ id: z.string() }) });
  const definitions = z.object({ definitions: z.object({ edges: z.array(identified).min(1) }) });
  const answer = z.object({ servers: z.object({ edges: z.array(z.object({ node: definitions })).min(1) }) });
  const { servers } = await harness.administrator.api.ask(document, {}, answer);
  return ids.set('definition', servers.edges[0]?.node.definitions.edges[0]?.node.id ?? '');
}

describe.skipIf(!hasTerraform('every kind that Terraform manages'))('every kind of resource', () => {
  beforeAll(async () => {
    upstream = await startReferenceServer();
    harness = await startHarness({
      upstreams: [upstream.url],
      nodes: 1,
      authorizationServer: true,
      environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    });
    provider = await buildProvider();
    workspace = workspaceFor(harness, provider, { 'main.tf': organization, ...valuesOf(secrets) });
    await workspace.apply();
  }, timeoutMs);
  afterAll(async () => {
    provider?.remove();
    await harness?.stop();
    await upstream?.stop();
  });

  test('has a row here', async () => {
    const schemas = z.object({
      provider_schemas: z.record(z.string(), z.object({ resource_schemas: z.record(z.string(), z.unknown()) })),
    });
    const told = schemas.parse(JSON.parse(await workspace.succeed('providers', ['schema', '-json'])));
    const kinds = Object.keys(Object.values(told.provider_schemas)[0]?.resource_schemas ?? {});
    const covered = new Set(Object.keys(rows).map((address) => address.split('.')[0]));
    expect(covered).toEqual(new Set(kinds));
  });

  test(
    'leaves no difference once applied, and no secret in its state',
    async () => {
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      const state = await workspace.succeed('state', ['pull']);
      for (const secret of Object.values(secrets)) expect(state).not.toContain(secret.slice(-32));
    },
    timeoutMs,
  );

  test.each(['id', 'natural key'])(
    'is imported into an empty state by its %s, without a difference',
    async (by) => {
      const ids = await idsNow();
      const addresses = Object.entries(rows);
      const blocks = [
        ...addresses.map(([address, { key }]) => [address, by === 'id' ? ids.get(address) : key] as const),
        ...credentialed.map((slug) => [`sallyport_server.others["${slug}"]`, slug] as const),
        ['sallyport_group.analysts', 'analysts'] as const,
      ];
      const imports = blocks.map(([to, id]) => `import {\n  to = ${to}\n  id = ${JSON.stringify(id)}\n}\n`).join('');
      const files = { 'main.tf': organization, 'imports.tf': imports, ...valuesOf(secrets) };
      const empty = workspaceFor(harness, provider, files);
      const { output } = await empty.plan();
      expect(output).toContain(`Plan: ${blocks.length} to import, 0 to add, 0 to change, 0 to destroy.`);
    },
    timeoutMs,
  );

  test(
    'shows what somebody else changed of it, and repairs it',
    async () => {
      const ids = await idsNow();
      for (const [address, { drift }] of Object.entries(rows)) {
        const [mutation, input, fields = 'id'] = drift(ids.get(address) ?? '', ids);
        await harness.administrator.mutate(mutation, input as Record<string, unknown>, fields, z.unknown());
      }
      const refused = await workspace.plan();
      expect(refused.code).toBe(1);
      // Whoever knew the secret of what was revoked must not be let in by it again.
      expect(refused.output.match(/secret_wo is that of another one, or of one that was revoked/g)?.length).toBe(3);
      workspace.write(valuesOf(newSecrets()));
      const drifted = await workspace.plan();
      expect(drifted).toMatchObject({ code: 2 });
      const { output } = drifted;
      const parts = new Map(output.split(/\n(?= {2}# sallyport_)/).map((part) => [/# (\S+)/.exec(part)?.[1], part]));
      const unseen = Object.entries(rows).filter(([address, { shown }]) => !shown.test(parts.get(address) ?? ''));
      expect(unseen.map(([address]) => address)).toEqual([]);
      await workspace.apply();
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      expect(await workspace.destroy()).toContain('Destroy complete!');
    },
    timeoutMs,
  );
});

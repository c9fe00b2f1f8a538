import type { GraphqlClient } from '@sallyport/cli';
import { systemClock } from '@sallyport/schema/platform';
import { z } from 'zod';
import { waitFor } from './condition.ts';

export interface RegisteredServer {
  readonly id: string;
  readonly slug: string;
}

export interface ClientAccount {
  /** Id of the service account. */
  readonly principalId: string;
  readonly keyId: string;
  /** The API key itself. */
  readonly key: string;
}

export interface GrantOptions {
  readonly serverId: string;
  /** Default: everyone. */
  readonly subject?: { readonly kind: 'USER' | 'GROUP' | 'SERVICE_ACCOUNT'; readonly id: string };
  readonly effect?: 'ALLOW' | 'DENY';
  readonly tools?: readonly string[];
  readonly prompts?: readonly string[];
  readonly resources?: readonly string[];
}

const identified = z.object({ id: z.string() });
const dayMs = 86_400_000;
const inDays = (days: number): string => new Date(systemClock.now() + days * dayMs).toISOString();

const configStatus = z.object({
  configRevision: z.number(),
  pending: z.boolean(),
  nodesLive: z.number(),
  nodesTotal: z.number(),
});

/** Of mutations whose input is not named after them. */
const inputTypes: Readonly<Record<string, string>> = {
  approveServer: 'ServerInput',
  disableServer: 'ServerInput',
  deleteServer: 'ServerInput',
  discoverServer: 'ServerInput',
  assignRole: 'RoleInput',
  removeRole: 'RoleInput',
  addGroupMembers: 'GroupMembersInput',
  removeGroupMembers: 'GroupMembersInput',
};

/** What an administrator does, through the public API and nothing else. */
export class Administrator {
  readonly api: GraphqlClient;
  private readonly nodeCount: number;

  constructor(api: GraphqlClient, nodeCount: number) {
    this.api = api;
    this.nodeCount = nodeCount;
  }

  /** Runs a mutation of one `input` and returns what it answers under its own name. */
  async mutate<T>(
    name: string,
    input: Readonly<Record<string, unknown>>,
    fields: string,
    answer: z.ZodType<T>,
  ): Promise<T> {
    const inputType = inputTypes[name] ?? `${name.charAt(0).toUpperCase()}${name.slice(1)}Input`;
    const document = `mutation ($input: ${inputType}!) { answer: ${name}(input: $input) { ${fields} } }`;
    return (await this.api.ask(document, { input }, z.object({ answer }))).answer;
  }

  /** A token for `usesMax` nodes to join with. */
  async createJoinToken(usesMax: number): Promise<string> {
    const input = { name: 'test', usesMax, expiresAt: inDays(1) };
    return (await this.mutate('createJoinToken', input, 'secret', z.object({ secret: z.string() }))).secret;
  }

  /**
   * Registers a server, waits until its definitions are known, and approves it with them. It may ask clients whatever
   * servers may: most tests are about what comes of that.
   */
  async registerServer(slug: string, url: string): Promise<RegisteredServer> {
    const { id } = await this.mutate('createServer', { slug, title: slug, url }, 'id', identified);
    await this.discovered(id);
    const asks = { sampling: true, roots: true, elicitation: true, perExchangeMax: 64 };
    await this.mutate('updateServerAsks', { id, ...asks }, 'id', identified);
    await this.mutate('approveServer', { id }, 'id', identified);
    return { id, slug };
  }

  async createClient(name: string): Promise<ClientAccount> {
    const account = await this.mutate('createServiceAccount', { name, expiresAt: inDays(30) }, 'id', identified);
    const issued = await this.mutate(
      'createApiKey',
      { principalId: account.id, name, scopes: ['MCP'], expiresAt: inDays(7) },
      'apiKey { id } secret',
      z.object({ apiKey: identified, secret: z.string() }),
    );
    return { principalId: account.id, keyId: issued.apiKey.id, key: issued.secret };
  }

  /** @returns the grant's id */
  async grant(options: GrantOptions): Promise<string> {
    const { subject = { kind: 'EVERYONE' }, effect = 'ALLOW', serverId, ...selectors } = options;
    const input = { name: 'test', subject, effect, serverId, ...selectors };
    return (await this.mutate('createGrant', input, 'id', identified)).id;
  }

  /**
   * Waits until every node acknowledged all that was changed so far.
   * @returns the revision of the configuration that is live everywhere
   */
  async converged(): Promise<number> {
    return waitFor(`${this.nodeCount} nodes run the newest configuration`, async () => {
      const document = '{ configStatus { configRevision pending nodesLive nodesTotal } }';
      const status = (await this.api.ask(document, {}, z.object({ configStatus }))).configStatus;
      const isLive = status.nodesLive === this.nodeCount && status.nodesTotal === this.nodeCount;
      return !status.pending && isLive ? status.configRevision : undefined;
    });
  }

  private async discovered(serverId: string): Promise<void> {
    const fields = z.object({ discoveredAt: z.string().nullable(), discoveryProblem: z.unknown() });
    await waitFor(`server ${serverId} is discovered`, async () => {
      const { server } = await this.api.ask(
        'query ($id: ID!) { server(id: $id) { discoveredAt discoveryProblem { code message } } }',
        { id: serverId },
        z.object({ server: fields }),
      );
      if (server.discoveryProblem !== null) throw new Error(JSON.stringify(server.discoveryProblem));
      return server.discoveredAt;
    });
  }
}

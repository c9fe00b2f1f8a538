import { z } from 'zod';
import { eq } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader } from '../database/client.ts';
import { mutate, type MutationOptions } from '../database/mutation.ts';
import { settings } from '../database/settings.tables.ts';
import { Violations } from '../database/violations.ts';
import { clientDomainProblem } from './client-domains.ts';

const settingsKey = 'oauth';
const domainsMax = 200;

const oauthSettingsSchema = z.strictObject({
  /** Whether clients may register themselves (RFC 7591). */
  dynamicRegistration: z.boolean().default(false),
  /** Domains at which clients may be named by the URL of their metadata document; absent until somebody says. */
  clientDomains: z.array(z.string()).optional(),
});
type Stored = z.infer<typeof oauthSettingsSchema>;
export interface OAuthSettings {
  readonly dynamicRegistration: boolean;
  readonly clientDomains: readonly string[];
}

/**
 * Until an administrator says whose clients may log users in: nobody's, since everybody can publish a metadata document
 * (decision 0054). On one machine alone, where there is nothing to phish for from outside, anybody's.
 */
function clientDomainsOf(issuer: string | undefined): string[] {
  return issuer?.startsWith('http:') === true ? ['*'] : [];
}

export interface UpdateOAuthSettings extends MutationOptions {
  readonly dynamicRegistration?: boolean | null | undefined;
  readonly clientDomains?: readonly string[] | null | undefined;
}

/** What administrators decide of the authorization server at run time. */
export class OAuthSettingsService {
  private readonly database: Pick<Database, 'db'>;
  private readonly issuer: string | undefined;

  constructor(database: Pick<Database, 'db'>, issuer: string | undefined) {
    this.database = database;
    this.issuer = issuer;
  }

  async get(ctx: Context): Promise<OAuthSettings> {
    ctx.authorize('settings:read');
    return this.read();
  }

  async read(): Promise<OAuthSettings> {
    return this.effective(await stored(this.database.db));
  }

  private effective({ dynamicRegistration, clientDomains }: Stored): OAuthSettings {
    return { dynamicRegistration, clientDomains: clientDomains ?? clientDomainsOf(this.issuer) };
  }

  async update(ctx: Context, input: UpdateOAuthSettings): Promise<OAuthSettings> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const found = new Violations();
      const domains = input.clientDomains ?? [];
      if (domains.length > domainsMax) found.add('input.clientDomains', `must have at most ${domainsMax} entries`);
      for (const [index, domain] of domains.entries()) {
        const problem = clientDomainProblem(domain);
        if (problem !== undefined) found.add(`input.clientDomains[${index}]`, problem);
      }
      found.assertNone();
      const before = await stored(tx);
      const clientDomains = input.clientDomains ?? before.clientDomains;
      const after: Stored = {
        dynamicRegistration: input.dynamicRegistration ?? before.dynamicRegistration,
        ...(clientDomains === undefined ? {} : { clientDomains: [...clientDomains] }),
      };
      const values = { value: after, updatedAt: new Date(ctx.clock.now()) };
      await tx
        .insert(settings)
        .values({ key: settingsKey, ...values })
        .onConflictDoUpdate({ target: settings.key, set: values });
      const object = { kind: 'authorizationServer', id: settingsKey };
      await recordMutation(tx, ctx, { action: 'authorizationServer.update', object, before, after });
      return this.effective(after);
    });
  }
}

async function stored(reader: Reader): Promise<Stored> {
  const [row] = await reader.select().from(settings).where(eq(settings.key, settingsKey));
  return oauthSettingsSchema.parse(row?.value ?? {});
}

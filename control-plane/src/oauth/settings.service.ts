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
  /** Domains at which clients may be named by the URL of their metadata document. */
  clientDomains: z.array(z.string()).default(['*']),
});
export type OAuthSettings = z.infer<typeof oauthSettingsSchema>;

export interface UpdateOAuthSettings extends MutationOptions {
  readonly dynamicRegistration?: boolean | null | undefined;
  readonly clientDomains?: readonly string[] | null | undefined;
}

/** What administrators decide of the authorization server at run time. */
export class OAuthSettingsService {
  private readonly database: Pick<Database, 'db'>;

  constructor(database: Pick<Database, 'db'>) {
    this.database = database;
  }

  async get(ctx: Context): Promise<OAuthSettings> {
    ctx.authorize('settings:read');
    return this.read();
  }

  async read(reader: Reader = this.database.db): Promise<OAuthSettings> {
    const [row] = await reader.select().from(settings).where(eq(settings.key, settingsKey));
    return oauthSettingsSchema.parse(row?.value ?? {});
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
      const before = await this.read(tx);
      const after: OAuthSettings = {
        dynamicRegistration: input.dynamicRegistration ?? before.dynamicRegistration,
        clientDomains: [...(input.clientDomains ?? before.clientDomains)],
      };
      const values = { value: after, updatedAt: new Date(ctx.clock.now()) };
      await tx
        .insert(settings)
        .values({ key: settingsKey, ...values })
        .onConflictDoUpdate({ target: settings.key, set: values });
      const object = { kind: 'authorizationServer', id: settingsKey };
      await recordMutation(tx, ctx, { action: 'authorizationServer.update', object, before, after });
      return after;
    });
  }
}

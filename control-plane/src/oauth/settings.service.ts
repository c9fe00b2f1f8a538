import { type StepUp, stepUpSchema } from '@sallyport/schema';
import { z } from 'zod';
import { eq } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { serverExists } from '../catalog/server-lookup.service.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { assertRevision, mutate, type MutationOptions } from '../database/mutation.ts';
import { settings } from '../database/settings.tables.ts';
import { Violations } from '../database/violations.ts';
import { clientDomainProblem } from './client-domains.ts';

const settingsKey = 'oauth';
const domainsMax = 200;
const stepUpMax = 500;
const acrValuesMax = 20;
const maxAgeSecondsMin = 60;
const maxAgeSecondsMax = 30 * 24 * 3600;

const oauthSettingsSchema = z.strictObject({
  /** Whether clients may register themselves (RFC 7591). */
  dynamicRegistration: z.boolean().default(false),
  /** Domains at which clients may be named by the URL of their metadata document; absent until somebody says. */
  clientDomains: z.array(z.string()).optional(),
  /** Endpoints that need more than any login of a person. */
  stepUp: z.array(stepUpSchema).default([]),
});
type Stored = z.infer<typeof oauthSettingsSchema>;
interface StoredRow {
  readonly stored: Stored;
  /** 1 until somebody says anything. */
  readonly revision: number;
}
export interface OAuthSettings {
  readonly dynamicRegistration: boolean;
  readonly clientDomains: readonly string[];
  readonly stepUp: readonly StepUp[];
  readonly revision: number;
}

/**
 * Until an administrator says whose clients may log users in: nobody's, since everybody can publish a metadata document
 * (decision 0054). On one machine alone, where there is nothing to phish for from outside, anybody's.
 */
function clientDomainsOf(issuer: string | undefined): string[] {
  return issuer?.startsWith('http:') === true ? ['*'] : [];
}

export interface UpdateOAuthSettings extends MutationOptions {
  readonly expectedRevision?: number | null | undefined;
  readonly dynamicRegistration?: boolean | null | undefined;
  readonly clientDomains?: readonly string[] | null | undefined;
  readonly stepUp?: readonly StepUpInput[] | null | undefined;
}
interface StepUpInput {
  readonly serverId: string;
  readonly acrValues?: readonly string[] | null | undefined;
  readonly maxAgeSeconds?: number | null | undefined;
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
    return this.effective(await findRow(this.database.db));
  }

  private effective({ stored: { dynamicRegistration, clientDomains, stepUp }, revision }: StoredRow): OAuthSettings {
    return { dynamicRegistration, stepUp, clientDomains: clientDomains ?? clientDomainsOf(this.issuer), revision };
  }

  async update(ctx: Context, input: UpdateOAuthSettings): Promise<OAuthSettings> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const { stored: before, revision } = await lockRow(tx, ctx);
      assertRevision({ revision }, input.expectedRevision);
      const found = new Violations();
      const domains = input.clientDomains ?? [];
      if (domains.length > domainsMax) found.add('input.clientDomains', `must have at most ${domainsMax} entries`);
      for (const [index, domain] of domains.entries()) {
        const problem = clientDomainProblem(domain);
        if (problem !== undefined) found.add(`input.clientDomains[${index}]`, problem);
      }
      await this.checkStepUp(tx, found, input.stepUp ?? []);
      found.assertNone();
      const clientDomains = input.clientDomains ?? before.clientDomains;
      const after: Stored = {
        dynamicRegistration: input.dynamicRegistration ?? before.dynamicRegistration,
        ...(clientDomains === undefined ? {} : { clientDomains: [...clientDomains] }),
        stepUp: input.stepUp ? input.stepUp.map(stepUpOf) : before.stepUp,
      };
      const row = { stored: after, revision: revision + 1 };
      await tx
        .update(settings)
        .set({ value: after, revision: row.revision, updatedAt: new Date(ctx.clock.now()) })
        .where(eq(settings.key, settingsKey));
      if (input.stepUp) await bumpConfigGeneration(tx);
      const object = { kind: 'authorizationServer', id: settingsKey };
      await recordMutation(tx, ctx, { action: 'authorizationServer.update', object, before, after });
      return this.effective(row);
    });
  }

  private async checkStepUp(tx: Transaction, found: Violations, rules: readonly StepUpInput[]): Promise<void> {
    if (rules.length > stepUpMax) found.add('input.stepUp', `must have at most ${stepUpMax} entries`);
    for (const [index, { serverId, acrValues, maxAgeSeconds }] of rules.slice(0, stepUpMax).entries()) {
      const path = `input.stepUp[${index}]`;
      // PostgreSQL reads an id in capitals as the same one.
      const isTwice = rules.findIndex((other) => other.serverId.toLowerCase() === serverId.toLowerCase()) < index;
      if (isTwice) found.add(`${path}.serverId`, 'is given twice');
      else if (!(await serverExists(tx, serverId))) found.add(`${path}.serverId`, 'must be the id of a server');
      const acrs = acrValues ?? [];
      if (acrs.length > acrValuesMax || acrs.some((acr) => !/^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/.test(acr))) {
        found.add(`${path}.acrValues`, `must be at most ${acrValuesMax} tokens without spaces, quotes or backslashes`);
      }
      const age = maxAgeSeconds ?? null;
      if (age !== null && (age < maxAgeSecondsMin || age > maxAgeSecondsMax)) {
        found.add(`${path}.maxAgeSeconds`, `must be ${maxAgeSecondsMin} to ${maxAgeSecondsMax}, or null`);
      }
      if (acrs.length === 0 && age === null) found.add(path, 'must name acrValues or maxAgeSeconds');
    }
  }
}

/** For nodes too, in the transaction that reads their configuration. */
export async function readOAuthSettings(reader: Reader): Promise<Stored> {
  return (await findRow(reader)).stored;
}

async function findRow(reader: Reader): Promise<StoredRow> {
  const [row] = await reader.select().from(settings).where(eq(settings.key, settingsKey));
  return storedIn(row);
}

function storedIn(row: typeof settings.$inferSelect | undefined): StoredRow {
  return { stored: oauthSettingsSchema.parse(row?.value ?? {}), revision: row?.revision ?? 1 };
}

/** Of two changes at once, the second sees what the first did. */
async function lockRow(tx: Transaction, ctx: Context): Promise<StoredRow> {
  const nothing = { key: settingsKey, value: {}, updatedAt: new Date(ctx.clock.now()) };
  await tx.insert(settings).values(nothing).onConflictDoNothing();
  const [row] = await tx.select().from(settings).where(eq(settings.key, settingsKey)).for('update');
  return storedIn(row);
}

function stepUpOf({ serverId, acrValues, maxAgeSeconds }: StepUpInput): StepUp {
  return { serverId: serverId.toLowerCase(), acrValues: [...(acrValues ?? [])], maxAgeSeconds: maxAgeSeconds ?? null };
}

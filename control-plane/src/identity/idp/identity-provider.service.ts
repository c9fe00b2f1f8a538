import { AppError, canonicalJson, publicUrlSchema } from '@sallyport/schema';
import { type Egress, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, ne } from 'drizzle-orm';
import type { RoleService } from '../../access/role.service.ts';
import { recordMutation } from '../../audit/audit.service.ts';
import type { Context } from '../../context.ts';
import type { Database, Reader, Transaction } from '../../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations, usedForAnother } from '../../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../../database/mutation.ts';
import { nameLengthMax, Violations } from '../../database/violations.ts';
import type { FleetVault } from '../../fleet/fleet-keys.ts';
import { type GroupRule, identityProviders, type IdentityProviderRow } from './identity-provider.tables.ts';
import type { ProvidedGroupService } from './provided-groups.service.ts';

const rulesMax = 500;
const textLengthMax = 255;
const listMax = 20;

export interface ProviderSettings {
  readonly name: string;
  readonly clientId: string;
  /** Null removes it; absent leaves it. */
  readonly clientSecret?: string | null | undefined;
  readonly scopes: readonly string[];
  readonly subjectClaim: string;
  readonly groupsClaim: string | null;
  readonly groupsUrl: string | null;
  readonly groupsUrlScope: string | null;
  readonly groupRules: readonly GroupRule[];
  readonly requiredClaims: readonly { readonly name: string; readonly value: string }[];
  readonly acrValues: readonly string[];
  readonly createsUsers: boolean;
  readonly acceptsAssertions: boolean;
  readonly enabled: boolean;
}
type Given = { readonly [Name in keyof ProviderSettings]?: ProviderSettings[Name] | null | undefined };

export interface CreateIdentityProvider extends MutationOptions, Given {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly issuer: string;
  readonly clientId: string;
}
interface ChangeOptions extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export interface UpdateIdentityProvider extends ChangeOptions, Given {}

type Identifying = 'id' | 'name' | 'issuer' | 'clientId' | 'createdAt' | 'updatedAt';
const defaults: Omit<typeof identityProviders.$inferInsert, Identifying> = {
  scopes: ['openid', 'profile', 'email'],
  subjectClaim: 'sub',
  groupsClaim: null,
  groupsUrl: null,
  groupsUrlScope: null,
  groupRules: [],
  acrValues: [],
  createsUsers: true,
  acceptsAssertions: false,
  enabled: true,
  requiredClaims: {},
};

export interface IdentityProviderOptions {
  readonly database: Database;
  readonly vault: Pick<FleetVault, 'seal' | 'open'>;
  readonly egress: Pick<Egress, 'check'>;
  readonly groups: ProvidedGroupService;
  readonly roles: Pick<RoleService, 'assertMayManageUsersOf'>;
  /** Ends what came of logins at the provider: sessions, and tokens on every node. */
  readonly endLogins: (tx: Transaction, providerId: string) => Promise<unknown>;
}

/** The identity providers that users log in with. */
export class IdentityProviderService {
  private readonly options: IdentityProviderOptions;

  constructor(options: IdentityProviderOptions) {
    this.options = options;
  }

  async get(ctx: Context, id: string): Promise<IdentityProviderRow> {
    ctx.authorize('identityProvider:read');
    return this.find(this.options.database.db, id);
  }

  async list(
    ctx: Context,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<IdentityProviderRow[]> {
    ctx.authorize('identityProvider:read');
    const [after] = page.after ?? [];
    return this.options.database.db
      .select()
      .from(identityProviders)
      .where(
        and(isNull(identityProviders.deletedAt), after === undefined ? undefined : gt(identityProviders.id, after)),
      )
      .orderBy(asc(identityProviders.id))
      .limit(page.limit + 1);
  }

  /** For pages: those that a user may log in with now. */
  async usable(): Promise<IdentityProviderRow[]> {
    return this.options.database.db
      .select()
      .from(identityProviders)
      .where(and(isNull(identityProviders.deletedAt), eq(identityProviders.enabled, true)))
      .orderBy(asc(identityProviders.name));
  }

  async usableById(id: string): Promise<IdentityProviderRow | undefined> {
    return isUuid(id) ? (await this.usable()).find((row) => row.id === id) : undefined;
  }

  async usableByIssuer(issuer: string): Promise<IdentityProviderRow | undefined> {
    return (await this.usable()).find((row) => row.issuer === issuer);
  }

  secretOf(row: IdentityProviderRow): string | undefined {
    if (row.sealedClientSecret === null) return undefined;
    const secret = this.options.vault.open(purposeOf(row.id), row.sealedClientSecret);
    if (secret !== undefined) return secret;
    throw new AppError('CONFIG_INVALID', { internal: `the secret of identity provider ${row.id} does not open` });
  }

  async create(ctx: Context, input: CreateIdentityProvider): Promise<IdentityProviderRow> {
    ctx.authorize('identityProvider:write');
    const now = new Date(ctx.clock.now());
    const problem = await this.issuerProblem(input.issuer);
    return mutate(this.options.database, input, async (tx) => {
      const id = uuidv7(now.getTime());
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      found.assertNone();
      const { clientSecret: _secret, ...told } = input;
      const create = { actorId: ctx.actor.principalId, operation: 'createIdentityProvider', key: input.idempotencyKey };
      // Before what is there is looked at: what a repetition would make is.
      const earlier = await claimIdempotencyKey(tx, { ...create, input: told }, id, now.getTime());
      if (earlier !== undefined) {
        const made = await this.find(tx, earlier);
        if (this.secretOf(made) !== (input.clientSecret ?? undefined)) throw usedForAnother();
        return made;
      }
      if (problem !== undefined) found.add('input.issuer', problem);
      await this.check(tx, found, input, id);
      const [same] = await tx
        .select({ id: identityProviders.id })
        .from(identityProviders)
        .where(and(eq(identityProviders.issuer, input.issuer), isNull(identityProviders.deletedAt)));
      if (same !== undefined) found.add('input.issuer', 'is the issuer of another identity provider');
      found.assertNone();
      const times = { createdAt: now, updatedAt: now };
      const [row] = await tx
        .insert(identityProviders)
        .values({ ...defaults, ...this.values(id, input), ...identity(input), ...times, id })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'identity provider was not inserted' });
      await this.claimGroups(tx, ctx, undefined, row);
      const object = { kind: 'identityProvider', id };
      await recordMutation(tx, ctx, { action: 'identityProvider.create', object, after: visible(row) });
      return row;
    });
  }

  /** Who is disabled can log nobody in, and what came of logins before ends. The issuer stays: users are keyed by it. */
  async update(ctx: Context, input: UpdateIdentityProvider): Promise<IdentityProviderRow> {
    ctx.authorize('identityProvider:write');
    return this.change(ctx, input, 'update', async (tx, before) => {
      const found = new Violations();
      await this.check(tx, found, input, before.id);
      found.assertNone();
      if (input.enabled === false && before.enabled) await this.options.endLogins(tx, before.id);
      return this.values(before.id, input);
    });
  }

  /** Its users stay, and can log in again when a provider with the same issuer is made. */
  async delete(ctx: Context, input: ChangeOptions): Promise<IdentityProviderRow> {
    ctx.authorize('identityProvider:write');
    return this.change(ctx, input, 'delete', async (tx, before) => {
      await this.options.endLogins(tx, before.id);
      return { deletedAt: new Date(ctx.clock.now()), groupRules: [], enabled: false };
    });
  }

  private async change(
    ctx: Context,
    input: ChangeOptions,
    verb: string,
    values: (tx: Transaction, before: IdentityProviderRow) => Promise<Partial<typeof identityProviders.$inferInsert>>,
  ): Promise<IdentityProviderRow> {
    return mutate(this.options.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      assertRevision(before, input.expectedRevision);
      const [row] = await tx
        .update(identityProviders)
        .set({
          ...(await values(tx, before)),
          revision: before.revision + 1,
          updatedAt: new Date(ctx.clock.now()),
        })
        .where(eq(identityProviders.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'provider vanished under its lock' });
      await this.claimGroups(tx, ctx, before, row);
      const object = { kind: 'identityProvider', id: row.id };
      const sides = { before: visible(before), after: visible(row) };
      await recordMutation(tx, ctx, { action: `identityProvider.${verb}`, object, ...sides });
      return row;
    });
  }

  /** Groups that rules name belong to the provider from now on, and those that none names any longer are free. */
  private async claimGroups(
    tx: Transaction,
    ctx: Context,
    before: IdentityProviderRow | undefined,
    row: IdentityProviderRow,
  ) {
    const wanted = new Set(row.groupRules.map(({ groupId }) => groupId));
    const had = new Set(before?.groupRules.map(({ groupId }) => groupId));
    // A rule that stays may let in others by another claim, and another client or subject whoever logs in: who says
    // which of its users somebody is could say that he is any of them.
    if (before === undefined || decidesWhoJoins(before) !== decidesWhoJoins(row)) {
      await this.options.roles.assertMayManageUsersOf(ctx, tx, row.issuer);
      await this.options.groups.assertMayFill(tx, ctx, [...new Set([...wanted, ...had])]);
    }
    for (const id of wanted) if (!had.has(id)) await this.options.groups.assign(tx, ctx, id, row.id);
    for (const id of had) if (!wanted.has(id)) await this.options.groups.assign(tx, ctx, id, null);
  }

  private values(id: string, input: Given): Partial<typeof identityProviders.$inferInsert> {
    const { clientSecret, requiredClaims, dryRun: _, ...rest } = input as Given & MutationOptions;
    const given = Object.entries(rest).filter(([name, value]) => {
      const isSetting = Object.hasOwn(defaults, name) || name === 'name' || name === 'clientId';
      return isSetting && value !== undefined && (value !== null || nullable.has(name));
    });
    const sealed = typeof clientSecret === 'string' ? this.options.vault.seal(purposeOf(id), clientSecret) : null;
    return {
      ...(Object.fromEntries(given) as Partial<typeof identityProviders.$inferInsert>),
      ...(clientSecret === undefined ? {} : { sealedClientSecret: sealed }),
      ...(requiredClaims === undefined || requiredClaims === null
        ? {}
        : { requiredClaims: Object.fromEntries(requiredClaims.map(({ name, value }) => [name, value])) }),
    };
  }

  private async issuerProblem(issuer: string): Promise<string | undefined> {
    const url = publicUrlSchema.safeParse(issuer.replace(/\/$/, ''));
    if (!url.success) return 'must be the https:// URL that the provider names as "issuer" in its metadata';
    return this.options.egress.check(issuer);
  }

  private async check(tx: Transaction, found: Violations, input: Given, id: string): Promise<void> {
    found.text('input.name', input.name, 1, nameLengthMax);
    found.text('input.clientId', input.clientId, 1, textLengthMax);
    found.text('input.clientSecret', input.clientSecret, 1, 1_024);
    found.text('input.subjectClaim', input.subjectClaim, 1, textLengthMax);
    found.text('input.groupsClaim', input.groupsClaim, 1, textLengthMax);
    found.text('input.groupsUrlScope', input.groupsUrlScope, 1, textLengthMax);
    if (input.scopes && !input.scopes.includes('openid')) found.add('input.scopes', 'must hold "openid"');
    for (const [name, list] of Object.entries({ scopes: input.scopes, acrValues: input.acrValues })) {
      if ((list?.length ?? 0) > listMax) found.add(`input.${name}`, `must have at most ${listMax} entries`);
      if (list?.some((one) => !/^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/.test(one)) === true) {
        found.add(`input.${name}`, 'must hold tokens without spaces or quotes');
      }
    }
    if (typeof input.groupsUrl === 'string') {
      const problem = await this.options.egress.check(input.groupsUrl.replaceAll('{subject}', 'subject'));
      if (problem !== undefined) found.add('input.groupsUrl', problem);
    }
    if (typeof input.name === 'string') {
      const [other] = await tx
        .select({ id: identityProviders.id })
        .from(identityProviders)
        .where(
          and(
            eq(identityProviders.name, input.name),
            isNull(identityProviders.deletedAt),
            ne(identityProviders.id, id),
          ),
        );
      if (other !== undefined) found.add('input.name', 'is the name of another identity provider');
    }
    await this.checkRules(tx, found, input.groupRules ?? [], id);
  }

  private async checkRules(tx: Transaction, found: Violations, rules: readonly GroupRule[], id: string): Promise<void> {
    if (rules.length > rulesMax) found.add('input.groupRules', `must have at most ${rulesMax} rules`);
    const ids = rules.map(({ groupId }) => groupId).filter(isUuid);
    const known = await this.options.groups.assignable(tx, ids, id);
    for (const [index, { value, groupId }] of rules.entries()) {
      found.text(`input.groupRules[${index}].value`, value, 1, textLengthMax);
      if (!known.has(groupId)) {
        found.add(`input.groupRules[${index}].groupId`, 'must be a group that no other provider or directory fills');
      }
    }
  }

  private async find(reader: Reader, id: string, lock = false): Promise<IdentityProviderRow> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader
      .select()
      .from(identityProviders)
      .where(and(inArray(identityProviders.id, [id]), isNull(identityProviders.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

/** All by which a login at the provider comes to groups, as one text. */
function decidesWhoJoins({ sealedClientSecret, ...row }: IdentityProviderRow): string {
  const { clientId, scopes, subjectClaim, groupsClaim, groupsUrl, groupsUrlScope, groupRules } = row;
  const { requiredClaims, acrValues, createsUsers, acceptsAssertions, enabled } = row;
  const whoLogsIn = {
    clientId,
    scopes,
    subjectClaim,
    requiredClaims,
    acrValues,
    createsUsers,
    acceptsAssertions,
    enabled,
  };
  return canonicalJson({ ...whoLogsIn, groupsClaim, groupsUrl, groupsUrlScope, groupRules, sealedClientSecret });
}

/** Settings that may be taken back by null. */
const nullable = new Set(['groupsClaim', 'groupsUrl', 'groupsUrlScope']);

function identity({ name, issuer, clientId }: CreateIdentityProvider) {
  return { name, issuer, clientId };
}

function purposeOf(id: string): string {
  return `sallyport.identityProviderSecret.v1|${id}`;
}

/** What audit events hold of it. */
function visible({ sealedClientSecret, ...rest }: IdentityProviderRow) {
  return { ...rest, hasClientSecret: sealedClientSecret !== null };
}

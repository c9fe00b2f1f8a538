import { AppError, canonicalJson } from '@sallyport/schema';
import { and, asc, eq, inArray, isNull, type SQL, sql } from 'drizzle-orm';
import type { Context } from '../../context.ts';
import type { Database, Reader, Transaction } from '../../database/client.ts';
import { isUuid, mutate } from '../../database/mutation.ts';
import { groupMembers, groups, type PrincipalRow, principals } from '../identity.tables.ts';
import type { PrincipalService, Provisioned } from '../principal.service.ts';
import { type Attribute, type Attributes, filterCondition, text } from './filter-query.service.ts';
import { type ListQuery, type Page, readPage } from './list.ts';
import { type PatchOperation, patchUser } from './patch.ts';
import { scimProblem } from './scim-problem.ts';
import { type ScimDirectoryRow, type ScimUserRow, scimUsers } from './scim.tables.ts';
import { emailOf, enterpriseSchema, nameOf, parseUser, type UserBody, userSchema } from './user-resource.ts';

export type Directory = Pick<ScimDirectoryRow, 'id' | 'name' | 'issuer'>;

/** A user of a directory: the principal, and what the directory said of it. */
export interface ScimUser {
  readonly principal: PrincipalRow;
  readonly said: ScimUserRow;
}
export interface GroupOfUser {
  readonly id: string;
  readonly name: string;
}

/** Says whether the resource is still what the caller read; throws where it is not. */
export type Precondition = (revision: number) => void;

/** Users as a directory pushes them. It sees and changes those alone that it provisions. */
export class ScimUserService {
  private readonly database: Database;
  private readonly principals: PrincipalService;

  constructor(database: Database, principalService: PrincipalService) {
    this.database = database;
    this.principals = principalService;
  }

  async get(directory: Directory, id: string): Promise<ScimUser> {
    return this.find(this.database.db, directory, id);
  }

  async list(directory: Directory, query: ListQuery): Promise<Page<ScimUser>> {
    const condition = and(
      eq(scimUsers.directoryId, directory.id),
      isNull(principals.deletedAt),
      query.filter === undefined ? undefined : filterCondition(query.filter, userAttributes, userSchema),
    );
    const { db } = this.database;
    const rows = db
      .select({ principal: principals, said: scimUsers })
      .from(scimUsers)
      .innerJoin(principals, eq(principals.id, scimUsers.principalId))
      .where(condition);
    const total = () => db.$count(rows.as('matching'));
    return readPage(query, total, (offset, limit) => rows.orderBy(asc(principals.id)).offset(offset).limit(limit));
  }

  /** The groups of users at hand, by id of the user: those of the directory and those made here. */
  async groupsOf(ids: readonly string[]): Promise<ReadonlyMap<string, readonly GroupOfUser[]>> {
    if (ids.length === 0) return new Map();
    const rows = await this.database.db
      .select({ principalId: groupMembers.principalId, id: groups.id, name: groups.name })
      .from(groupMembers)
      .innerJoin(groups, eq(groups.id, groupMembers.groupId))
      .where(inArray(groupMembers.principalId, [...ids]))
      .orderBy(asc(groups.id));
    return Map.groupBy(rows, ({ principalId }) => principalId);
  }

  /**
   * Makes a user, or takes one over who logged in by this identity before the directory named it. A name or identity
   * that the directory already gave is a conflict.
   */
  async create(ctx: Context, directory: Directory, body: UserBody): Promise<ScimUser> {
    return mutate(this.database, {}, async (tx) => {
      await this.assertUnused(tx, directory, body, undefined);
      const provisioned = provisionedOf(directory, body, body.active ?? true);
      const known = await this.knownByLogin(tx, directory, body);
      const principal =
        known === undefined
          ? await this.principals.insertProvisioned(tx, ctx, provisioned)
          : await this.principals.changeProvisioned(tx, ctx, known, {
              ...provisioned,
              // Who was disabled here stays so.
              status: body.active === false ? 'disabled' : undefined,
            });
      const [said] = await tx
        .insert(scimUsers)
        .values({
          principalId: principal.id,
          directoryId: directory.id,
          userName: body.userName,
          externalId: body.externalId,
          active: body.active ?? true,
          attributes: body.attributes,
        })
        .returning();
      if (said === undefined) throw new AppError('INTERNAL', { internal: 'a user of a directory was not inserted' });
      return { principal, said };
    });
  }

  async replace(
    ctx: Context,
    directory: Directory,
    id: string,
    body: UserBody,
    precondition: Precondition,
  ): Promise<ScimUser> {
    return this.change(ctx, directory, id, precondition, () => body);
  }

  async patch(
    ctx: Context,
    directory: Directory,
    id: string,
    operations: readonly PatchOperation[],
    precondition: Precondition,
  ): Promise<ScimUser> {
    return this.change(ctx, directory, id, precondition, ({ said }) => {
      const { userName, externalId, active } = said;
      const resource = { schemas: [userSchema], userName, externalId, active, ...structuredClone(said.attributes) };
      return parseUser(patchUser(resource, operations));
    });
  }

  /** The user is gone for the directory, and its identity free; keys, memberships and grants went with it. */
  async delete(ctx: Context, directory: Directory, id: string, precondition: Precondition): Promise<void> {
    await mutate(this.database, {}, async (tx) => {
      const before = await this.find(tx, directory, id);
      precondition(before.principal.revision);
      await this.principals.deleteProvisioned(tx, ctx, id);
      await tx.delete(scimUsers).where(eq(scimUsers.principalId, id));
    });
  }

  private async change(
    ctx: Context,
    directory: Directory,
    id: string,
    precondition: Precondition,
    next: (before: ScimUser) => UserBody,
  ): Promise<ScimUser> {
    return mutate(this.database, {}, async (tx) => {
      // Locked first: two patches must not be made of the same state.
      if (isUuid(id)) await tx.select().from(scimUsers).where(eq(scimUsers.principalId, id)).for('update');
      const before = await this.find(tx, directory, id);
      precondition(before.principal.revision);
      const body = next(before);
      const active = body.active ?? before.said.active;
      const { userName, externalId, attributes } = body;
      if (before.said.externalId !== null && externalId !== null && externalId !== before.said.externalId) {
        const reason = 'externalId is the identity by which the user logs in: delete the user and make another';
        throw scimProblem('mutability', reason);
      }
      const said = { userName, externalId: externalId ?? before.said.externalId, active, attributes };
      if (isSame(before.said, said)) return before;
      await this.assertUnused(tx, directory, body, id);
      const principal = await this.principals.changeProvisioned(tx, ctx, id, {
        ...provisionedOf(directory, { ...body, externalId: said.externalId }, active),
        // Where nothing changed, a user that was disabled here stays so, however often the directory repeats itself.
        ...(active === before.said.active ? { status: undefined } : {}),
      });
      const [row] = await tx.update(scimUsers).set(said).where(eq(scimUsers.principalId, id)).returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'a user of a directory vanished' });
      return { principal, said: row };
    });
  }

  /** Told before PostgreSQL refuses it, so that the directory learns which of the two it is. */
  private async assertUnused(tx: Transaction, directory: Directory, body: UserBody, ownId: string | undefined) {
    const others = await tx
      .select({ id: scimUsers.principalId, userName: scimUsers.userName })
      .from(scimUsers)
      .where(
        and(
          eq(scimUsers.directoryId, directory.id),
          sql`(lower(${scimUsers.userName}) = lower(${body.userName}) or ${scimUsers.externalId} = ${body.externalId})`,
        ),
      );
    const other = others.find(({ id }) => id !== ownId);
    if (other === undefined) return;
    const isName = other.userName.toLowerCase() === body.userName.toLowerCase();
    throw scimProblem('uniqueness', `${isName ? 'userName' : 'externalId'} belongs to another user`);
  }

  private async knownByLogin(tx: Transaction, directory: Directory, body: UserBody): Promise<string | undefined> {
    if (body.externalId === null) return undefined;
    const [row] = await tx
      .select({ id: principals.id })
      .from(principals)
      .where(
        and(
          eq(principals.issuer, directory.issuer),
          eq(principals.subject, body.externalId),
          isNull(principals.deletedAt),
        ),
      );
    return row?.id;
  }

  private async find(reader: Reader, directory: Directory, id: string): Promise<ScimUser> {
    const [row] = isUuid(id)
      ? await reader
          .select({ principal: principals, said: scimUsers })
          .from(scimUsers)
          .innerJoin(principals, eq(principals.id, scimUsers.principalId))
          .where(
            and(eq(scimUsers.principalId, id), eq(scimUsers.directoryId, directory.id), isNull(principals.deletedAt)),
          )
      : [];
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

function provisionedOf(directory: Directory, body: UserBody, active: boolean): Provisioned {
  const { userName, externalId, attributes } = body;
  return {
    directoryId: directory.id,
    issuer: directory.issuer,
    // Without it nobody can log in as this user, which is told in the guide.
    subject: externalId ?? '',
    name: nameOf(body),
    email: emailOf(attributes),
    status: active ? 'active' : 'disabled',
    said: { directory: directory.name, userName, externalId, active },
  };
}

function isSame(before: ScimUserRow, said: Omit<ScimUserRow, 'principalId' | 'directoryId'>): boolean {
  const { userName, externalId, active, attributes } = before;
  return canonicalJson({ userName, externalId, active, attributes }) === canonicalJson(said);
}

const attribute = (...path: string[]): SQL =>
  sql`${scimUsers.attributes} #>> ${`{${path.map((p) => `"${p}"`).join(',')}}`}::text[]`;

function list(name: string): Attribute {
  const element = (key: string): SQL => sql`(element ->> ${key}::text)`;
  return {
    kind: 'list',
    elements: new Map<string, Attribute>([
      ['value', text(element('value'))],
      ['type', text(element('type'))],
      ['display', text(element('display'))],
      ['primary', { kind: 'truth', value: sql`(element ->> 'primary')::boolean` }],
    ]),
    some: (condition) =>
      sql`exists (select 1 from jsonb_array_elements(${scimUsers.attributes} -> ${name}::text) as element where ${condition})`,
  };
}

const texts = ['displayName', 'nickName', 'title', 'userType', 'preferredLanguage', 'locale', 'timezone'];
const nameParts = ['formatted', 'familyName', 'givenName', 'middleName'];
const enterpriseTexts = ['employeeNumber', 'costCenter', 'organization', 'division', 'department'];

const userAttributes: Attributes = new Map<string, Attribute>([
  ['id', text(sql`${principals.id}::text`, true)],
  ['username', text(sql`${scimUsers.userName}`)],
  ['externalid', text(sql`${scimUsers.externalId}`, true)],
  ['active', { kind: 'truth', value: sql`${scimUsers.active}` }],
  ['meta.created', { kind: 'instant', value: sql`${principals.createdAt}` }],
  ['meta.lastmodified', { kind: 'instant', value: sql`${principals.updatedAt}` }],
  ...texts.map((name) => [name.toLowerCase(), text(attribute(name))] as const),
  ...nameParts.map((name) => [`name.${name.toLowerCase()}`, text(attribute('name', name))] as const),
  ...enterpriseTexts.map(
    (name) => [`${enterpriseSchema}:${name}`.toLowerCase(), text(attribute(enterpriseSchema, name))] as const,
  ),
  ...['emails', 'phoneNumbers', 'roles', 'entitlements'].map((name) => [name.toLowerCase(), list(name)] as const),
]);

import { plainObject, textOf, type Json } from './scim-json.ts';
import { scimProblem } from './scim-problem.ts';

export const groupSchema = 'urn:ietf:params:scim:schemas:core:2.0:Group';
/** Members that one request names. */
export const membersMax = 50_000;
const nameLengthMax = 256;

export interface GroupBody {
  readonly name: string;
  readonly externalId: string | null;
  /** Lower case; undefined where the attribute is absent. */
  readonly memberIds: ReadonlySet<string> | undefined;
}

/** Reads a Group resource (RFC 7643 §4.2); names in any case, unknown attributes are passed over. */
export function parseGroup(body: Json): GroupBody {
  const given = new Map(
    Object.entries(plainObject(body, 'the body')).map(([key, value]) => [key.toLowerCase(), value]),
  );
  const schemas = given.get('schemas');
  if (schemas !== undefined && !(Array.isArray(schemas) && schemas.includes(groupSchema))) {
    throw scimProblem('invalidSyntax', `schemas must name ${groupSchema}`);
  }
  const members = given.get('members');
  return {
    name: parseDisplayName(given.get('displayname')),
    externalId: textOf(given.get('externalid'), 'externalId', nameLengthMax) ?? null,
    memberIds: members === undefined || members === null ? undefined : memberIdsOf(members),
  };
}

export function parseDisplayName(value: unknown): string {
  const name = textOf(value, 'displayName', nameLengthMax);
  if (name === undefined) throw scimProblem('invalidValue', 'displayName is required');
  return name;
}

/** The ids in `members`: objects with `value`, as Entra and Okta write them; one may stand alone. */
export function memberIdsOf(value: unknown): ReadonlySet<string> {
  const members: readonly unknown[] = Array.isArray(value) ? value : [value];
  if (members.length > membersMax) throw scimProblem('tooMany', `at most ${membersMax} members in one request`);
  return new Set(
    members.map((member) => {
      const id = typeof member === 'string' ? member : plainObject(member, 'a member')['value'];
      if (typeof id !== 'string' || id === '') throw scimProblem('invalidValue', 'a member is named by its value');
      return id.toLowerCase();
    }),
  );
}

import { emailLengthMax, emailPattern } from '../email.ts';
import { nameLengthMax } from '../../database/violations.ts';
import { plainObject, textOf, truthOf, type Json } from './scim-json.ts';
import { scimProblem } from './scim-problem.ts';

export const userSchema = 'urn:ietf:params:scim:schemas:core:2.0:User';
export const enterpriseSchema = 'urn:ietf:params:scim:schemas:extension:enterprise:2.0:User';

/** Attributes of RFC 7643 §4.1 and §4.3 that are kept as the directory wrote them. */
const keptAttributes = [
  'displayName',
  'name',
  'nickName',
  'profileUrl',
  'title',
  'userType',
  'preferredLanguage',
  'locale',
  'timezone',
  'emails',
  'phoneNumbers',
  'ims',
  'photos',
  'addresses',
  'entitlements',
  'roles',
  'x509Certificates',
  enterpriseSchema,
] as const;
const multiValued = new Set<string>([
  'emails',
  'phoneNumbers',
  'ims',
  'photos',
  'addresses',
  'entitlements',
  'roles',
  'x509Certificates',
]);
/** The service's own, and what it never takes: a directory may send them, and they say nothing. */
const ignoredAttributes = ['schemas', 'id', 'meta', 'groups', 'password'] as const;
const canonicalNames = new Map(
  [...keptAttributes, ...ignoredAttributes, 'userName', 'externalId', 'active'].map((name) => [
    name.toLowerCase(),
    name,
  ]),
);

const identifierLengthMax = 256;
/** Of all that is kept of one user, as JSON text. */
const attributesCharactersMax = 32 * 1024;

/** All a directory says of a user but its names and whether it is active. */
export type UserAttributes = Readonly<Record<string, unknown>>;

export interface UserBody {
  readonly userName: string;
  readonly externalId: string | null;
  /** Undefined where nothing is said. */
  readonly active: boolean | undefined;
  readonly attributes: UserAttributes;
}

/** How an attribute is written, whatever the case in which it was; undefined for one that is not known. */
export function canonicalUserAttribute(name: string): string | undefined {
  return canonicalNames.get(name.toLowerCase());
}

/**
 * Reads a User resource (RFC 7643 §4.1). Names are read in any case, unknown attributes are passed over, and booleans
 * may be the texts that Entra sends ("True").
 */
export function parseUser(body: Json): UserBody {
  const given = new Map<string, unknown>();
  for (const [key, value] of Object.entries(plainObject(body, 'the body'))) {
    const name = canonicalUserAttribute(key);
    if (name !== undefined && value !== null) given.set(name, value);
  }
  const schemas = given.get('schemas');
  if (schemas !== undefined && !(Array.isArray(schemas) && schemas.includes(userSchema))) {
    throw scimProblem('invalidSyntax', `schemas must name ${userSchema}`);
  }
  const userName = textOf(given.get('userName'), 'userName', identifierLengthMax);
  if (userName === undefined) throw scimProblem('invalidValue', 'userName is required');
  const active = given.get('active');
  const attributes: Record<string, unknown> = {};
  for (const name of keptAttributes) {
    const value = given.get(name);
    if (value !== undefined) attributes[name] = multiValued.has(name) ? elementsOf(value, name) : value;
  }
  if (JSON.stringify(attributes).length > attributesCharactersMax) {
    throw scimProblem('invalidValue', `the attributes have more than ${attributesCharactersMax} characters`);
  }
  return {
    userName,
    externalId: textOf(given.get('externalId'), 'externalId', identifierLengthMax) ?? null,
    active: active === undefined ? undefined : truthOf(active, 'active'),
    attributes,
  };
}

/** The elements of a multi-valued attribute; a single one may stand alone. */
function elementsOf(value: unknown, name: string): unknown[] {
  const elements = Array.isArray(value) ? value : [value];
  return elements.map((element: unknown) => {
    if (element === null || typeof element !== 'object' || Array.isArray(element)) return { value: element };
    const { primary, ...rest } = element as Record<string, unknown>;
    return primary === undefined ? rest : { ...rest, primary: truthOf(primary, `${name}.primary`) };
  });
}

/** What people call the user: the display name, else the parts of the name, else the user name. */
export function nameOf({ userName, attributes }: Pick<UserBody, 'userName' | 'attributes'>): string {
  const name = memberOf(attributes, 'name');
  const parts = [textMember(name, 'givenName'), textMember(name, 'familyName')].filter((part) => part !== undefined);
  const found = textMember(attributes, 'displayName') ?? textMember(name, 'formatted') ?? parts.join(' ');
  return (found.trim() === '' ? userName : found.trim()).slice(0, nameLengthMax);
}

/** Where to write to: the primary address, else that of work, else the first. */
export function emailOf(attributes: UserAttributes): string | null {
  const emails = (attributes['emails'] ?? []) as readonly Record<string, unknown>[];
  const chosen = emails.find(({ primary }) => primary === true) ?? emails.find(({ type }) => type === 'work');
  const email = textMember(chosen ?? emails[0], 'value');
  return email !== undefined && email.length <= emailLengthMax && emailPattern.test(email) ? email : null;
}

function memberOf(value: unknown, key: string): unknown {
  return value !== null && typeof value === 'object' ? (value as Record<string, unknown>)[key] : undefined;
}

function textMember(value: unknown, key: string): string | undefined {
  const member = memberOf(value, key);
  return typeof member === 'string' && member !== '' ? member : undefined;
}

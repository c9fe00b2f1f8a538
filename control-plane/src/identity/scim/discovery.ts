import { groupSchema } from './group-resource.ts';
import { resourcesPerPageMax } from './list.ts';
import { enterpriseSchema, userSchema } from './user-resource.ts';

const schemaSchema = 'urn:ietf:params:scim:schemas:core:2.0:Schema';
const resourceTypeSchema = 'urn:ietf:params:scim:schemas:core:2.0:ResourceType';
const configSchema = 'urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig';

type Document = Readonly<Record<string, unknown>>;

/** What this service provider can do (RFC 7643 §5). @param base of SCIM, without a slash at the end */
export function serviceProviderConfig(base: string): Document {
  return {
    schemas: [configSchema],
    documentationUri: 'https://datatracker.ietf.org/doc/html/rfc7644',
    patch: { supported: true },
    bulk: { supported: false, maxOperations: 0, maxPayloadSize: 0 },
    filter: { supported: true, maxResults: resourcesPerPageMax },
    changePassword: { supported: false },
    sort: { supported: false },
    etag: { supported: true },
    authenticationSchemes: [
      {
        type: 'oauthbearertoken',
        name: 'Bearer token',
        description: 'A token of the directory, made by the mutation createScimToken.',
        specUri: 'https://datatracker.ietf.org/doc/html/rfc6750',
        primary: true,
      },
    ],
    meta: { resourceType: 'ServiceProviderConfig', location: `${base}/ServiceProviderConfig` },
  };
}

export function resourceTypes(base: string): Document[] {
  return [
    {
      schemas: [resourceTypeSchema],
      id: 'User',
      name: 'User',
      endpoint: '/Users',
      description: 'A person.',
      schema: userSchema,
      schemaExtensions: [{ schema: enterpriseSchema, required: false }],
      meta: { resourceType: 'ResourceType', location: `${base}/ResourceTypes/User` },
    },
    {
      schemas: [resourceTypeSchema],
      id: 'Group',
      name: 'Group',
      endpoint: '/Groups',
      description: 'A set of persons.',
      schema: groupSchema,
      schemaExtensions: [],
      meta: { resourceType: 'ResourceType', location: `${base}/ResourceTypes/Group` },
    },
  ];
}

interface Traits {
  readonly type?: string;
  readonly multiValued?: boolean;
  readonly required?: boolean;
  readonly caseExact?: boolean;
  readonly mutability?: string;
  readonly returned?: string;
  readonly uniqueness?: string;
  readonly subAttributes?: readonly Document[];
  readonly referenceTypes?: readonly string[];
}

function attribute(name: string, description: string, traits: Traits = {}): Document {
  return {
    name,
    description,
    type: 'string',
    multiValued: false,
    required: false,
    caseExact: false,
    mutability: 'readWrite',
    returned: 'default',
    uniqueness: 'none',
    ...traits,
  };
}

const complex = (...subAttributes: readonly Document[]): Traits => ({ type: 'complex', subAttributes });
const readOnly: Traits = { mutability: 'readOnly' };

function plural(name: string, description: string): Document {
  const elements = complex(
    attribute('value', 'The value.'),
    attribute('display', 'How it is shown.'),
    attribute('type', 'What it is for, such as work.'),
    attribute('primary', 'Whether it is the preferred one.', { type: 'boolean' }),
  );
  return attribute(name, description, { ...elements, multiValued: true });
}

const nameAttributes = ['formatted', 'familyName', 'givenName', 'middleName', 'honorificPrefix', 'honorificSuffix'];
const plainUserAttributes = ['displayName', 'nickName', 'title', 'userType', 'preferredLanguage', 'locale', 'timezone'];
const enterpriseTexts = ['employeeNumber', 'costCenter', 'organization', 'division', 'department'];

function userAttributes(): Document[] {
  return [
    attribute('userName', 'Unique in the directory, whatever its case.', { required: true, uniqueness: 'server' }),
    attribute('externalId', 'By which the identity provider knows the user: its sub, or oid with Entra. Set once.', {
      caseExact: true,
      mutability: 'immutable',
    }),
    attribute('active', 'False ends all sessions, tokens and keys of the user.', { type: 'boolean' }),
    attribute('name', 'The parts of the name.', complex(...nameAttributes.map((name) => attribute(name, 'A part.')))),
    ...plainUserAttributes.map((name) => attribute(name, 'Kept as it is written.')),
    attribute('profileUrl', 'Kept as it is written.', { type: 'reference', referenceTypes: ['external'] }),
    ...['emails', 'phoneNumbers', 'ims', 'photos', 'entitlements', 'roles', 'x509Certificates'].map((name) =>
      plural(name, name === 'emails' ? 'The primary one is shown; none is an identity.' : 'Kept as it is written.'),
    ),
    attribute('addresses', 'Kept as it is written.', {
      ...complex(attribute('formatted', 'The whole address.'), attribute('type', 'What it is for.')),
      multiValued: true,
    }),
    attribute('groups', 'The groups it belongs to; change them there.', {
      ...complex(
        attribute('value', 'Id of the group.', readOnly),
        attribute('display', 'Name of the group.', readOnly),
        attribute('$ref', 'The group.', { ...readOnly, type: 'reference', referenceTypes: ['Group'] }),
      ),
      ...readOnly,
      multiValued: true,
    }),
  ];
}

function groupAttributes(): Document[] {
  return [
    attribute('displayName', 'Unique among all groups.', { required: true, caseExact: true, uniqueness: 'server' }),
    attribute('externalId', 'By which the directory knows the group.', { caseExact: true }),
    attribute('members', 'Users of the directory; no groups.', {
      ...complex(
        attribute('value', 'Id of the user.', { mutability: 'immutable' }),
        attribute('display', 'What people call the user.', readOnly),
        attribute('$ref', 'The user.', { mutability: 'immutable', type: 'reference', referenceTypes: ['User'] }),
        attribute('type', 'Always User.', { mutability: 'immutable' }),
      ),
      multiValued: true,
    }),
  ];
}

function enterpriseAttributes(): Document[] {
  const manager = complex(attribute('value', 'Id of the manager.'), attribute('displayName', 'Its name.'));
  return [
    ...enterpriseTexts.map((name) => attribute(name, 'Kept as it is written.')),
    attribute('manager', 'Kept as it is written.', manager),
  ];
}

/** The schemas of what is served (RFC 7643 §7). */
export function schemaDocuments(base: string): Document[] {
  const schema = (id: string, name: string, description: string, attributes: readonly Document[]): Document => ({
    schemas: [schemaSchema],
    id,
    name,
    description,
    attributes,
    meta: { resourceType: 'Schema', location: `${base}/Schemas/${id}` },
  });
  return [
    schema(userSchema, 'User', 'A person.', userAttributes()),
    schema(groupSchema, 'Group', 'A set of persons.', groupAttributes()),
    schema(enterpriseSchema, 'EnterpriseUser', 'What an employer knows of a person.', enterpriseAttributes()),
  ];
}

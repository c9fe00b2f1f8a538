import { createPublicKey, type KeyObject } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import {
  compileGrant,
  type ConfigDocument,
  type ConfigProblem,
  documentKey,
  documentSchema,
  type Era,
  eraOf,
  type GrantEntry,
  grantProblems,
  isProtocolRevision,
  type KeysDocument,
  type LabelSelector,
  type LimitsDocument,
  type OAuthDocument,
  type PayloadKeyDocument,
  type PoliciesDocument,
  policyProblems,
  PolicySet,
  principalShard,
  type PrincipalsDocument,
  type WebhookEntry,
  ServerDefinitions,
  type ServerDocument,
  sha256,
} from '@sallyport/schema';
import { isLendingKey, type SealingKey } from '@sallyport/schema/platform';
import type { OAuthRuntime, Runtime, ServerRuntime } from './runtime.ts';

/** Most problems one NACK names; one broken kind of document would otherwise name every document. */
const problemsMax = 50;
const sealingSecretBytes = 32;

export interface ServerPart {
  readonly kind: 'server';
  readonly document: ServerDocument;
  readonly upstream: URL;
  readonly eras: ReadonlySet<Era>;
  readonly definitions: ServerDefinitions;
}
interface GrantsPart {
  readonly kind: 'grants';
  readonly serverId: string;
  readonly grants: ServerRuntime['grants'];
}
export interface LabelGrantsPart {
  readonly kind: 'labelGrants';
  readonly selector: LabelSelector;
  readonly grants: ServerRuntime['grants'];
}
interface GroupsPart {
  readonly kind: 'groups';
  readonly names: Runtime['groupNames'];
}
interface OAuthPart {
  readonly kind: 'oauth';
  readonly oauth: OAuthRuntime;
}
interface PrincipalsPart {
  readonly kind: 'principals';
  readonly document: PrincipalsDocument;
}
interface LimitsPart {
  readonly kind: 'limits';
  readonly document: LimitsDocument;
}
interface PoliciesPart {
  readonly kind: 'policies';
  readonly policies: PolicySet;
}
interface WebhooksPart {
  readonly kind: 'webhooks';
  readonly webhooks: ReadonlyMap<string, WebhookEntry>;
}
interface PayloadKeyPart {
  readonly kind: 'payloadKey';
  readonly document: PayloadKeyDocument;
}
interface KeysPart {
  readonly kind: 'keys';
  readonly sealing: Runtime['sealing'];
}
/** A document, compiled. */
export type Part = (
  | ServerPart
  | GrantsPart
  | LabelGrantsPart
  | PrincipalsPart
  | GroupsPart
  | LimitsPart
  | KeysPart
  | PayloadKeyPart
  | OAuthPart
  | PoliciesPart
  | WebhooksPart
) & {
  readonly hash: string;
};

/** What is wrong with a configuration, as far as one NACK names it. */
export class Problems {
  readonly found: ConfigProblem[] = [];
  add(document: string, path: string, message: string): void {
    if (this.found.length < problemsMax) this.found.push({ document, path, message });
  }
}

/**
 * Reads one document strictly; undefined where that is a problem.
 * @param key under which the manifest names it
 * @param before what stood under the key, of which is shared what did not change
 */
export function readPart(
  key: string,
  hash: string,
  text: string | undefined,
  before: Part | undefined,
  problems: Problems,
): Part | undefined {
  if (text === undefined || sha256(text) !== hash) {
    problems.add(key, '', text === undefined ? 'the document is missing' : 'the document does not match its hash');
    return undefined;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    problems.add(key, '', 'the document is not valid JSON');
    return undefined;
  }
  const parsed = documentSchema.safeParse(value);
  if (!parsed.success) {
    for (const issue of parsed.error.issues) problems.add(key, issue.path.join('.'), issue.message);
    return undefined;
  }
  if (documentKey(parsed.data) !== key) {
    problems.add(key, '', `the document says that it is ${documentKey(parsed.data)}`);
    return undefined;
  }
  return compilePart(key, hash, parsed.data, before, problems);
}

function compilePart(
  key: string,
  hash: string,
  document: ConfigDocument,
  before: Part | undefined,
  problems: Problems,
): Part | undefined {
  switch (document.kind) {
    case 'server':
      return compileServer(key, hash, document, before?.kind === 'server' ? before : undefined, problems);
    case 'grants':
      return {
        kind: 'grants',
        hash,
        serverId: document.serverId,
        grants: compileGrants(key, document.grants, problems),
      };
    case 'labelGrants':
      return {
        kind: 'labelGrants',
        hash,
        selector: document.selector,
        grants: compileGrants(key, document.grants, problems),
      };
    case 'groups':
      return { kind: 'groups', hash, names: new Map(document.groups.map(({ id, name }) => [id, name])) };
    case 'principals':
      document.principals.forEach((principal, index) => {
        if (principalShard(principal.id) !== document.shard) {
          problems.add(key, `principals.${index}.id`, 'belongs to another shard');
        }
      });
      return { kind: 'principals', hash, document };
    case 'limits':
      return { kind: 'limits', hash, document };
    case 'oauth':
      return compileOAuth(key, hash, document, problems);
    case 'policies':
      return compilePolicies(key, hash, document, problems);
    case 'webhooks':
      return { kind: 'webhooks', hash, webhooks: new Map(document.webhooks.map((webhook) => [webhook.id, webhook])) };
    case 'payloadKey':
      if (!isLendingKey(document.publicKey)) problems.add(key, 'publicKey', 'is no X25519 key');
      return { kind: 'payloadKey', hash, document };
    case 'keys':
      return compileKeys(key, hash, document, problems);
    default:
      return document satisfies never;
  }
}

function compileServer(
  key: string,
  hash: string,
  document: ServerDocument,
  before: ServerPart | undefined,
  problems: Problems,
): Part | undefined {
  const seen = new Set<string>();
  document.definitions.forEach((definition, index) => {
    const name = `${definition.kind}\n${definition.name}`;
    if (seen.has(name)) problems.add(key, `definitions.${index}.name`, 'occurs twice');
    seen.add(name);
  });
  const upstream = URL.parse(document.url);
  if (upstream === null) {
    problems.add(key, 'url', 'is not a URL');
    return undefined;
  }
  const eras = new Set(document.protocolRevisions.filter(isProtocolRevision).map(eraOf));
  // Most of a server's document, and mostly as it was: held once while both configurations are.
  const isAsBefore = before !== undefined && isDeepStrictEqual(before.document.definitions, document.definitions);
  const definitions = isAsBefore ? before.definitions : new ServerDefinitions(document.definitions);
  if (isAsBefore) document.definitions = before.document.definitions;
  return { kind: 'server', hash, document, upstream, eras, definitions };
}

/** The grants that can be used; any other is a problem of the whole document. */
function compileGrants(key: string, grants: readonly GrantEntry[], problems: Problems): ServerRuntime['grants'] {
  return grants.flatMap((grant, index) => {
    const found = grantProblems(grant);
    for (const { path, message } of found) problems.add(key, `grants.${index}.${path}`, message);
    return found.length === 0 ? [compileGrant(grant)] : [];
  });
}

function compileOAuth(key: string, hash: string, document: OAuthDocument, problems: Problems): Part {
  const keys = new Map<string, KeyObject>();
  document.keys.forEach(({ kid, x, y }, index) => {
    if (keys.has(kid)) problems.add(key, `keys.${index}.kid`, 'occurs twice');
    try {
      keys.set(kid, createPublicKey({ key: { kty: 'EC', crv: 'P-256', x, y }, format: 'jwk' }));
    } catch {
      problems.add(key, `keys.${index}`, 'is no point on the curve P-256');
    }
  });
  return { kind: 'oauth', hash, oauth: { document, keys } };
}

function compilePolicies(key: string, hash: string, { policies }: PoliciesDocument, problems: Problems): Part {
  const seen = new Set<string>();
  policies.forEach((policy, index) => {
    if (seen.has(policy.id)) problems.add(key, `policies.${index}.id`, 'occurs twice');
    seen.add(policy.id);
    for (const { path, message } of policyProblems(policy)) problems.add(key, `policies.${index}.${path}`, message);
  });
  return { kind: 'policies', hash, policies: new PolicySet(policies) };
}

function compileKeys(key: string, hash: string, document: KeysDocument, problems: Problems): Part | undefined {
  const open = new Map<string, SealingKey>();
  let seal: SealingKey | undefined;
  document.sealing.forEach((entry, index) => {
    const secret = Buffer.from(entry.secret, 'base64');
    const sealingKey = { id: entry.id, secret };
    if (secret.length !== sealingSecretBytes) problems.add(key, `sealing.${index}.secret`, 'is not 32 bytes');
    if (open.has(entry.id)) problems.add(key, `sealing.${index}.id`, 'occurs twice');
    if (entry.use === 'seal' && seal !== undefined) problems.add(key, `sealing.${index}.use`, 'a second key seals');
    open.set(entry.id, sealingKey);
    if (entry.use === 'seal') seal = sealingKey;
  });
  if (seal === undefined) {
    problems.add(key, 'sealing', 'no key seals');
    return undefined;
  }
  return { kind: 'keys', hash, sealing: { seal, open } };
}

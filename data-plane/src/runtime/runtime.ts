import type { KeyObject } from 'node:crypto';
import type {
  Cidr,
  CompiledGrant,
  Era,
  LimitsDocument,
  OAuthDocument,
  PayloadKeyDocument,
  PolicySet,
  PrincipalRecord,
  ServerDefinitions,
  ServerDocument,
  WebhookEntry,
} from '@sallyport/schema';
import type { SealingKey } from '@sallyport/schema/platform';

/** A server with everything a decision about it needs, built once per configuration. */
export interface ServerRuntime {
  readonly document: ServerDocument;
  readonly upstream: URL;
  /** Eras the upstream was observed to speak. */
  readonly eras: ReadonlySet<Era>;
  /** Its own, and those on servers with its labels. */
  readonly grants: readonly CompiledGrant[];
  readonly definitions: ServerDefinitions;
  /** SHA-256 of all documents that decisions about it rest on: equal means every decision stays the same. */
  readonly fingerprint: string;
}

/** Who issues access tokens, for which resources, and the keys that verify them, by their ids. */
export interface OAuthRuntime {
  readonly document: OAuthDocument;
  readonly keys: ReadonlyMap<string, KeyObject>;
}

export interface ApiKeyEntry {
  readonly principal: PrincipalRecord;
  readonly key: PrincipalRecord['keys'][number];
  /** From where the key may be used; null for anywhere. */
  readonly networks: readonly Cidr[] | null;
}

/**
 * One whole configuration, indexed and immutable. A request pins the one it started with; a swap replaces the
 * reference and never changes an object.
 */
export interface Runtime {
  readonly historyId: string;
  readonly revision: number;
  readonly serverBySlug: ReadonlyMap<string, ServerRuntime>;
  readonly serverById: ReadonlyMap<string, ServerRuntime>;
  readonly principalById: ReadonlyMap<string, PrincipalRecord>;
  /** By SHA-256 of the whole key, hex. */
  readonly apiKeyByHash: ReadonlyMap<string, ApiKeyEntry>;
  /** Names of groups by id, as conditions see them. */
  readonly groupNames: ReadonlyMap<string, string>;
  readonly limits: LimitsDocument;
  /** What is inspected; the same object while nothing of it changes. */
  readonly policies: PolicySet;
  /** What captured messages are sealed to; undefined where none are to be captured. */
  readonly payloadKey: PayloadKeyDocument | undefined;
  /** By id, those that are off too. */
  readonly webhooks: ReadonlyMap<string, WebhookEntry>;
  /** Undefined where nobody issues access tokens; the same object while nothing of it changes. */
  readonly oauth: OAuthRuntime | undefined;
  readonly sealing: { readonly seal: SealingKey; readonly open: ReadonlyMap<string, SealingKey> };
}

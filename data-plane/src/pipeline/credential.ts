import { hash } from 'node:crypto';
import {
  type Decision,
  isSteppedUp,
  keyOpensServer,
  type PrincipalRecord,
  refusal,
  resourceUrl,
  scopesCover,
  type StepUpNeeds,
  scopeOfKind,
  type TargetKind,
} from '@sallyport/schema';
import type { Runtime, ServerRuntime } from '../runtime/runtime.ts';
import type { AccessTokens, VerifiedToken } from './access-token.ts';
import { type DecisionSet, isActive, mayCall, type RequestOf } from './decisions.ts';
import type { ProxyRequest } from './exchange.ts';

const apiKeyForm = /^bearer +(sp_[A-Za-z0-9_-]{16,128})$/i;
const accessTokenForm = /^bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)$/i;

/** By what a caller proved who it is. Neither key nor token is kept: it can be named, not used. */
export type Credential =
  | { readonly kind: 'apiKey'; readonly id: string; readonly hash: string }
  | { readonly kind: 'accessToken'; readonly token: VerifiedToken };

export interface Identified {
  readonly principal: PrincipalRecord;
  readonly credential: Credential;
}

/** Whether a request brings something of the form of an API key, be it one or not. */
export function presentsApiKey(headers: ReadonlyMap<string, string>): boolean {
  return apiKeyForm.test(headers.get('authorization') ?? '');
}

/**
 * Whom a request comes from. The same answer for a key or token that is unknown, malformed, expired or revoked, and for
 * one whose principal may not act. Does not ask which endpoint a token is for: see `isFor`.
 */
export function identify(
  { headers, remoteAddress }: Pick<ProxyRequest, 'headers' | 'remoteAddress'>,
  runtime: Runtime,
  tokens: AccessTokens,
  nowMs: number,
): Identified | undefined {
  const presented = headers.get('authorization') ?? '';
  const apiKey = apiKeyForm.exec(presented)?.[1];
  // Hashed also where none is presented, so that the time of the answer tells nothing.
  const keyHash = hash('sha256', apiKey ?? '');
  const entry = runtime.apiKeyByHash.get(keyHash);
  if (entry !== undefined) {
    if (!mayCall(entry, nowMs, remoteAddress)) return undefined;
    return { principal: entry.principal, credential: { kind: 'apiKey', id: entry.key.id, hash: keyHash } };
  }
  const text = apiKey === undefined ? accessTokenForm.exec(presented)?.[1] : undefined;
  const token = text === undefined ? undefined : tokens.verify(text, runtime, nowMs);
  if (token === undefined) return undefined;
  const principal = holderOf(token, runtime, nowMs);
  return principal && { principal, credential: { kind: 'accessToken', token } };
}

/** The principal of a token, where it may act and neither its epoch nor the token's family was ended since. */
function holderOf(token: VerifiedToken, runtime: Runtime, nowMs: number): PrincipalRecord | undefined {
  const principal = runtime.principalById.get(token.principalId);
  if (principal === undefined || !isActive(principal, nowMs)) return undefined;
  if (principal.epoch !== token.epoch || principal.revokedFamilies.includes(token.family)) return undefined;
  return principal;
}

/**
 * The principal under another configuration, where the credential still holds there; undefined where it was revoked.
 * That a token has expired since does not end the exchange it began: an API key's expiry does.
 */
export function principalStill(
  credential: Credential,
  runtime: Runtime,
  nowMs: number,
  address: string | null,
): PrincipalRecord | undefined {
  if (credential.kind === 'apiKey') {
    const entry = runtime.apiKeyByHash.get(credential.hash);
    return entry !== undefined && mayCall(entry, nowMs, address) ? entry.principal : undefined;
  }
  const { token } = credential;
  const { oauth } = runtime;
  if (oauth === undefined || oauth.document.issuer !== token.issuer) return undefined;
  // A key that was taken away takes with it what it signed.
  if (![...oauth.keys.values()].some((key) => key.equals(token.key))) return undefined;
  return holderOf(token, runtime, nowMs);
}

/** Whether a credential may be used at an endpoint: a token is for one, compared as a string (RFC 8707 §2). */
export function isFor(credential: Credential, slug: string, runtime: Runtime): boolean {
  if (credential.kind === 'apiKey') return true;
  const { oauth } = runtime;
  return oauth !== undefined && credential.token.audience === resourceUrl(oauth.document.nodesUrl, slug);
}

/** Whether the principal may know of the server at all, by its grants and by what its key opens. */
export function decideKnown(
  set: DecisionSet,
  credential: Credential,
  { document }: ServerRuntime,
  runtime: Runtime,
  request: RequestOf,
): Decision {
  if (credential.kind === 'apiKey') {
    const entry = runtime.apiKeyByHash.get(credential.hash);
    const isOpen = entry !== undefined && keyOpensServer(entry.key.servers, document);
    if (!isOpen) return refusal('KEY_NOT_FOR_SERVER');
  }
  return set.decideServer(request);
}

/**
 * What the login behind a credential lacks for the server; undefined where it is enough. It is asked of people: an API key
 * of theirs tells of no login, and is not enough. A service account has none.
 */
export function missingStepUp(
  { kind }: PrincipalRecord,
  credential: Credential,
  { document }: ServerRuntime,
  { oauth }: Runtime,
  nowMs: number,
): StepUpNeeds | undefined {
  const needs = oauth?.document.stepUp?.find(({ serverId }) => serverId === document.id);
  if (needs === undefined || kind !== 'user') return undefined;
  const login = credential.kind === 'accessToken' ? credential.token.login : {};
  return isSteppedUp(needs, login, nowMs) ? undefined : needs;
}

/** Whether the time of a credential is up. */
export function isOver(credential: Credential, nowMs: number): boolean {
  return credential.kind === 'accessToken' && nowMs >= credential.token.expiresAt;
}

/** Whether the scopes of a token reach targets of a kind; an API key has no such scopes. */
export function covers(credential: Credential, kind: TargetKind): boolean {
  return credential.kind === 'apiKey' || scopesCover(credential.token.scopes, scopeOfKind[kind]);
}

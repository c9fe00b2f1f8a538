/**
 * What the planes agree on about secrets toward upstreams (docs/decisions/0070-secrets-toward-upstreams.md): how a server
 * wants to be called, and what a node is lent for it.
 */
import { z } from 'zod';

/** How the gateway proves itself to a server. There is no mode that passes on what a client sent. */
export const credentialModes = [
  'none',
  'staticHeaders',
  'clientCredentials',
  'userOAuth',
  'tokenExchange',
  'identityAssertion',
  'identityToken',
] as const;
export type CredentialMode = (typeof credentialModes)[number];

/** Modes whose credential is the caller's own; all others speak as one service for everybody. */
export const perUserModes: ReadonlySet<CredentialMode> = new Set([
  'userOAuth',
  'tokenExchange',
  'identityAssertion',
  'identityToken',
]);

/** Of a server's document; absent where it is called without any. */
export const serverCredentialSchema = z.strictObject({
  mode: z.enum(credentialModes).exclude(['none']),
  /** Raised by each change: what a node holds of an earlier one is not found any more. */
  revision: z.number().int().nonnegative(),
});
export type ServerCredentialReference = z.infer<typeof serverCredentialSchema>;

const header = z.tuple([z.string().min(1).max(128), z.string().max(16_384)]);

/** What a node is lent, in clear only in its memory. */
export const lentCredentialSchema = z.strictObject({
  serverId: z.string(),
  /** Of the stored secret or the connected account it comes from, for the record; older control planes do not say. */
  id: z.string().nullable().default(null),
  /** Null for a credential that is the same for everybody. */
  principalId: z.string().nullable(),
  /** Of the authorization server and the protected resource that a token is for; null where there is no token. */
  issuer: z.string().nullable(),
  resource: z.string().nullable(),
  revision: z.number().int().nonnegative(),
  /** Origin that it may be sent to, and no other. */
  origin: z.string(),
  headers: z.array(header).max(32),
  /** In the control plane's time; null where it ends with its revision alone. */
  expiresAt: z.number().int().nonnegative().nullable(),
  /** Whether asking again after a 401 may give another one. */
  renewable: z.boolean(),
});
export type LentCredential = z.infer<typeof lentCredentialSchema>;

/** What a node asks for. */
export const credentialNeedSchema = z.strictObject({
  serverId: z.string().max(128),
  principalId: z.string().max(128).nullable(),
  revision: z.number().int().nonnegative(),
  /** `expiresAt` of one that the upstream did not accept: only another will do. */
  refused: z
    .strictObject({
      expiresAt: z.number().int().nonnegative().nullable(),
      /** `WWW-Authenticate` of the refusal, as far as it is of use; never shown to anybody. */
      challenge: z.string().max(2048).nullable(),
      status: z.union([z.literal(401), z.literal(403)]),
    })
    .nullable(),
});
export type CredentialNeed = z.infer<typeof credentialNeedSchema>;

/** What a node may learn instead of a credential. */
export const credentialProblems = ['CREDENTIAL_MISSING', 'CREDENTIAL_UNAVAILABLE', 'CONNECTION_NEEDED'] as const;
export type CredentialProblem = (typeof credentialProblems)[number];

export const credentialOutcomeSchema = z.discriminatedUnion('ok', [
  /** `sealed` to the node's key, for `lendingContext`; holds a `LentCredential`. */
  z.strictObject({ ok: z.literal(true), sealed: z.string() }),
  z.strictObject({
    ok: z.literal(false),
    problem: z.enum(credentialProblems),
    /** Where the user connects his account; null where that is not what helps. */
    connectUrl: z.url().nullable(),
  }),
]);
export type CredentialOutcome = z.infer<typeof credentialOutcomeSchema>;

/** What a node signs with its key when it says to which one it wants credentials sealed. */
export function lendingKeyText(challenge: string, publicKey: string): string {
  return `sallyport.lendingKey.v1|${challenge}|${publicKey}`;
}

/** What a sealed credential is bound to. */
export function lendingContext(nodeId: string, requestId: string): string {
  return `sallyport.lentCredential.v1|${nodeId}|${requestId}`;
}

const headerName = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/;
/** Visible ASCII with inner blanks: RFC 9110 §5.5 without obs-text. */
const headerValue = /^[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?$/;
const headerValueLengthMax = 8_192;
const forbiddenHeaders: ReadonlySet<string> = new Set([
  'accept',
  'accept-encoding',
  'connection',
  'cookie2',
  'expect',
  'forwarded',
  'host',
  'http2-settings',
  'keep-alive',
  'last-event-id',
  'origin',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'set-cookie',
  'te',
  'traceparent',
  'tracestate',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'user-agent',
  'via',
]);
const forbiddenPrefixes = ['mcp-', 'content-', 'x-forwarded-', 'sec-', 'proxy-', ':'] as const;

/**
 * Why a header cannot be a credential: it is the protocol's, the connection's, or no header at all. Undefined where it
 * can.
 */
export function credentialHeaderProblem(name: string): string | undefined {
  if (!headerName.test(name)) return 'must be the name of an HTTP header, such as X-Api-Key';
  const lower = name.toLowerCase();
  if (forbiddenHeaders.has(lower) || forbiddenPrefixes.some((prefix) => lower.startsWith(prefix))) {
    return 'is a header of the protocol or of the connection, which the gateway sets itself';
  }
  return undefined;
}

export function credentialValueProblem(value: string): string | undefined {
  if (value.length > headerValueLengthMax) return `must have at most ${headerValueLengthMax} characters`;
  return headerValue.test(value) ? undefined : 'must be visible ASCII without blanks at its ends';
}

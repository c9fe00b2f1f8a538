import { credentialHeaderProblem, type CredentialMode, credentialValueProblem } from '@sallyport/schema';
import type { Violations } from '../database/violations.ts';
import { type ClientAuthentication, privateJwk } from './client-authentication.ts';

const headersMax = 16;
const hostsMax = 16;
const scopesMax = 64;
const textLengthMax = 512;
const secretLengthMax = 8_192;
const lifetimeSecondsDefault = 120;
const lifetimeSecondsBounds = [30, 300] as const;
const hostPattern = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;

/** What of a credential may be shown, by mode. */
export interface StaticHeadersSettings {
  readonly mode: 'staticHeaders';
  /** As they were given; their values are the secret. */
  readonly headerNames: readonly string[];
}
/** A client that an administrator registered at an authorization server. */
interface RegisteredClient {
  readonly issuer: string | null;
  readonly clientId: string | null;
  readonly authentication: ClientAuthentication;
  readonly scopes: readonly string[];
}
export interface ClientCredentialsSettings extends RegisteredClient {
  readonly mode: 'clientCredentials';
  readonly issuer: string;
  readonly clientId: string;
}
export interface UserOAuthSettings extends RegisteredClient {
  readonly mode: 'userOAuth';
  /** Hosts on which the authorization endpoint may be, besides the issuer's own. */
  readonly authorizationHosts: readonly string[];
  /** Whether users are asked to connect when they log in; absent in what older versions stored. */
  readonly requiredAtLogin?: boolean;
}
/** A client that may exchange tokens at the authorization server of a server (RFC 8693). */
export interface TokenExchangeSettings extends RegisteredClient {
  readonly mode: 'tokenExchange';
  readonly issuer: string;
  readonly clientId: string;
  /** Name of the server there, where `resource` does not tell. */
  readonly audience: string | null;
  /** Whether the gateway names itself as the one who acts for the user. */
  readonly namesActor: boolean;
}
/** A client at the authorization server of a server, which takes assertions of the user's identity provider (ID-JAG). */
export interface IdentityAssertionSettings extends RegisteredClient {
  readonly mode: 'identityAssertion';
}
export const identityClaims = ['name', 'email', 'groups'] as const;
export type IdentityClaim = (typeof identityClaims)[number];
export interface IdentityTokenSettings {
  readonly mode: 'identityToken';
  /** Null: the server's URL, as a client of MCP names it. */
  readonly audience: string | null;
  readonly lifetimeSeconds: number;
  readonly claims: readonly IdentityClaim[];
}
export type CredentialSettings =
  | StaticHeadersSettings
  | ClientCredentialsSettings
  | UserOAuthSettings
  | TokenExchangeSettings
  | IdentityAssertionSettings
  | IdentityTokenSettings;
/** Settings of the modes that have a client at an authorization server. */
export type ClientSettings = Extract<CredentialSettings, RegisteredClient>;

export interface CredentialHeader {
  readonly name: string;
  readonly value: string;
}

/** What an administrator gives: exactly one member, which is the mode. */
export interface CredentialInput {
  readonly staticHeaders?: { readonly headers: readonly CredentialHeader[] } | null | undefined;
  readonly clientCredentials?: ClientInput | null | undefined;
  readonly userOAuth?: UserOAuthFields | null | undefined;
  readonly tokenExchange?:
    | (ClientInput & { readonly audience?: string | null; readonly namesActor?: boolean | null })
    | null
    | undefined;
  readonly identityAssertion?: ClientInput | null | undefined;
  readonly identityToken?:
    | {
        readonly audience?: string | null;
        readonly lifetimeSeconds?: number | null;
        readonly claims?: readonly IdentityClaim[] | null;
      }
    | null
    | undefined;
}

export interface ClientInput {
  readonly issuer?: string | null | undefined;
  readonly clientId?: string | null | undefined;
  readonly authentication?: ClientAuthentication | null | undefined;
  /** A secret, or a private key as JWK, by the authentication; without a key the gateway signs with its own. */
  readonly secret?: string | null | undefined;
  readonly scopes?: readonly string[] | null | undefined;
}

export interface UserOAuthFields extends ClientInput {
  readonly authorizationHosts?: readonly string[] | null | undefined;
  readonly requiredAtLogin?: boolean | null | undefined;
}

export interface CheckedCredential {
  readonly settings: CredentialSettings;
  /** JSON, to be sealed; null where the mode needs no secret. */
  readonly secret: string | null;
}

const given = [
  'staticHeaders',
  'clientCredentials',
  'userOAuth',
  'tokenExchange',
  'identityAssertion',
  'identityToken',
] as const satisfies readonly (keyof CredentialInput)[] & readonly CredentialMode[];

/** What was given, or nothing where `found` says what is wrong with it. */
export function checkCredential(found: Violations, input: CredentialInput): CheckedCredential | undefined {
  const modes = given.filter((mode) => input[mode] !== undefined && input[mode] !== null);
  if (modes.length !== 1) {
    found.add('input', `must have exactly one of ${given.join(', ')}`);
    return undefined;
  }
  if (input.staticHeaders) return checkHeaders(found, input.staticHeaders.headers);
  if (input.clientCredentials) return checkClientCredentials(found, input.clientCredentials);
  if (input.userOAuth) return checkUserOAuth(found, input.userOAuth);
  if (input.tokenExchange) return checkTokenExchange(found, input.tokenExchange);
  if (input.identityAssertion) return checkIdentityAssertion(found, input.identityAssertion);
  return input.identityToken ? checkIdentityToken(found, input.identityToken) : undefined;
}

function checkClientCredentials(found: Violations, input: ClientInput): CheckedCredential {
  const client = checkConfidentialClient(found, 'input.clientCredentials', input);
  return { settings: { ...client, mode: 'clientCredentials' }, secret: input.secret ?? null };
}

function checkTokenExchange(
  found: Violations,
  input: NonNullable<CredentialInput['tokenExchange']>,
): CheckedCredential {
  const path = 'input.tokenExchange';
  const client = checkConfidentialClient(found, path, input);
  const { audience = null, namesActor } = input;
  found.text(`${path}.audience`, audience, 1, textLengthMax);
  const settings = { ...client, mode: 'tokenExchange', audience, namesActor: namesActor ?? false } as const;
  return { settings, secret: input.secret ?? null };
}

function checkIdentityAssertion(found: Violations, input: ClientInput): CheckedCredential {
  const path = 'input.identityAssertion';
  const client = checkOptionalClient(found, path, input);
  if (client.clientId !== null && client.authentication === 'none') {
    found.add(`${path}.authentication`, 'must prove who the client is');
  }
  if (client.clientId === null && client.authentication !== 'none') {
    found.add(`${path}.clientId`, 'is needed with an authentication');
  }
  return { settings: { ...client, mode: 'identityAssertion' }, secret: input.secret ?? null };
}

function checkIdentityToken(
  found: Violations,
  input: NonNullable<CredentialInput['identityToken']>,
): CheckedCredential {
  const path = 'input.identityToken';
  const { audience = null, lifetimeSeconds: given, claims } = input;
  const lifetimeSeconds = given ?? lifetimeSecondsDefault;
  found.text(`${path}.audience`, audience, 1, textLengthMax);
  found.between(`${path}.lifetimeSeconds`, lifetimeSeconds, ...lifetimeSecondsBounds);
  const chosen = identityClaims.filter((claim) => claims?.includes(claim) === true);
  return { settings: { mode: 'identityToken', audience, lifetimeSeconds, claims: chosen }, secret: null };
}

/** One that is known to one authorization server, and proves it. */
function checkConfidentialClient(found: Violations, path: string, input: ClientInput) {
  const client = checkClient(found, path, input);
  if (client.issuer === null) found.add(`${path}.issuer`, 'is needed');
  if (client.clientId === null) found.add(`${path}.clientId`, 'is needed');
  if (client.authentication === 'none') found.add(`${path}.authentication`, 'must prove who the client is');
  const { issuer, clientId } = client;
  return { ...client, issuer: issuer ?? '', clientId: clientId ?? '' };
}

function checkUserOAuth(found: Violations, input: UserOAuthFields): CheckedCredential {
  const path = 'input.userOAuth';
  const client = checkOptionalClient(found, path, input);
  const hosts = input.authorizationHosts ?? [];
  if (hosts.length > hostsMax) found.add(`${path}.authorizationHosts`, `must have at most ${hostsMax} hosts`);
  for (const [index, host] of hosts.entries()) {
    if (!hostPattern.test(host))
      found.add(`${path}.authorizationHosts[${index}]`, 'must be a host, such as login.example');
  }
  const own = { authorizationHosts: hosts, requiredAtLogin: input.requiredAtLogin ?? false };
  return { settings: { ...client, mode: 'userOAuth', ...own }, secret: input.secret ?? null };
}

/** One that the gateway sees to itself where none is given. */
function checkOptionalClient(found: Violations, path: string, input: ClientInput): RegisteredClient {
  const client = checkClient(found, path, input);
  if (client.clientId !== null && client.issuer === null) {
    found.add(`${path}.issuer`, 'is needed with a clientId: a client is known to one authorization server');
  }
  return client;
}

function checkClient(found: Violations, path: string, input: ClientInput): RegisteredClient {
  const { issuer = null, clientId = null, secret = null, scopes, authentication: given } = input;
  const authentication = given ?? (secret === null ? 'none' : 'clientSecretBasic');
  const url = issuer === null ? undefined : URL.parse(issuer);
  if (
    url === null ||
    (url !== undefined && (!/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== ''))
  ) {
    found.add(`${path}.issuer`, 'must be an issuer, such as https://login.example.com');
  }
  found.text(`${path}.clientId`, clientId, 1, textLengthMax);
  const isOptional = authentication === 'privateKeyJwt';
  if (!isOptional && (secret === null) !== (authentication === 'none')) {
    found.add(
      `${path}.secret`,
      secret === null ? 'is needed by the authentication' : 'is of no use without authentication',
    );
  }
  if (secret !== null && secret.length > secretLengthMax) {
    found.add(`${path}.secret`, `must have at most ${secretLengthMax} characters`);
  }
  if (secret !== null && authentication === 'privateKeyJwt' && !isPrivateKey(secret)) {
    found.add(`${path}.secret`, 'must be a private key as JWK: EC with P-256 or P-384, or Ed25519');
  }
  for (const [index, scope] of (scopes ?? []).entries()) {
    if (index >= scopesMax) found.add(`${path}.scopes`, `must have at most ${scopesMax} scopes`);
    // RFC 6749 §3.3.
    else if (!/^[\x21\x23-\x5b\x5d-\x7e]{1,256}$/.test(scope)) found.add(`${path}.scopes[${index}]`, 'is no scope');
  }
  return { issuer, clientId, authentication, scopes: scopes ?? [] };
}

function isPrivateKey(text: string): boolean {
  try {
    return privateJwk.safeParse(JSON.parse(text)).success;
  } catch {
    return false;
  }
}

function checkHeaders(found: Violations, headers: readonly CredentialHeader[]): CheckedCredential {
  const path = 'input.staticHeaders.headers';
  if (headers.length === 0 || headers.length > headersMax) found.add(path, `must have 1 to ${headersMax} headers`);
  const names = new Set<string>();
  for (const [index, { name, value }] of headers.slice(0, headersMax).entries()) {
    const at = `${path}[${index}]`;
    const nameProblem = credentialHeaderProblem(name);
    if (nameProblem !== undefined) found.add(`${at}.name`, nameProblem);
    if (names.has(name.toLowerCase())) found.add(`${at}.name`, 'is given twice');
    names.add(name.toLowerCase());
    const valueProblem = credentialValueProblem(value);
    if (valueProblem !== undefined) found.add(`${at}.value`, valueProblem);
  }
  return {
    settings: { mode: 'staticHeaders', headerNames: headers.map(({ name }) => name) },
    secret: JSON.stringify(headers.map(({ name, value }) => [name.toLowerCase(), value])),
  };
}

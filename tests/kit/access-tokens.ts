import { createHmac, generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto';
import { type OAuthDocument, resourceUrl } from '@sallyport/schema';
import { systemClock } from '@sallyport/schema/platform';

export interface TokenOptions {
  readonly header?: Readonly<Record<string, unknown>>;
  readonly claims?: Readonly<Record<string, unknown>>;
  /** Default: the key of the issuer, by ES256. */
  readonly signature?: (signed: string) => Buffer;
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');

/** An authorization server as far as its tokens go: it signs whatever a test says. */
export class TokenIssuer {
  readonly kid: string;
  readonly #privateKey: KeyObject;
  readonly #x: string;
  readonly #y: string;
  readonly issuer: string;
  readonly nodesUrl: string;

  constructor(
    kid = 'key-1',
    { issuer = 'https://control.example', nodesUrl = 'https://mcp.example' }: Partial<OAuthDocument> = {},
  ) {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const { x = '', y = '' } = publicKey.export({ format: 'jwk' });
    this.kid = kid;
    this.#privateKey = privateKey;
    this.#x = x;
    this.#y = y;
    this.issuer = issuer;
    this.nodesUrl = nodesUrl;
  }

  /** What is pushed to nodes; with the keys of others where a rotation is under way. */
  document(...others: readonly TokenIssuer[]): OAuthDocument {
    const keys = [this, ...others].map((one) => ({ kid: one.kid, x: one.#x, y: one.#y }));
    return { kind: 'oauth', issuer: this.issuer, nodesUrl: this.nodesUrl, keys };
  }

  /** The public key as some libraries would take it for a shared secret. */
  get publicKeyText(): string {
    return JSON.stringify({ kty: 'EC', crv: 'P-256', x: this.#x, y: this.#y });
  }

  /** A token for an endpoint, good in all that is not said otherwise. */
  token(slug: string, principalId: string, options: TokenOptions = {}): string {
    const now = Math.floor(systemClock.now() / 1000);
    const claims = {
      iss: this.issuer,
      aud: resourceUrl(this.nodesUrl, slug),
      sub: principalId,
      client_id: 'https://client.example/metadata.json',
      scope: 'mcp',
      iat: now,
      exp: now + 600,
      jti: randomUUID(),
      epoch: 0,
      family: 'family-1',
      ...options.claims,
    };
    const header = { typ: 'at+jwt', alg: 'ES256', kid: this.kid, ...options.header };
    const signed = `${part(header)}.${part(claims)}`;
    const signature =
      options.signature?.(signed) ??
      sign('sha256', Buffer.from(signed), { key: this.#privateKey, dsaEncoding: 'ieee-p1363' });
    return `${signed}.${signature.toString('base64url')}`;
  }

  /** A token "signed" by HMAC with the public key: what `alg` confusion is about. */
  confusedToken(slug: string, principalId: string): string {
    const signature = (signed: string) => createHmac('sha256', this.publicKeyText).update(signed).digest();
    return this.token(slug, principalId, { header: { alg: 'HS256' }, signature });
  }
}

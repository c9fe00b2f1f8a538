import * as oauth from 'openid-client';
import { z } from 'zod';

/** How the gateway is known to an authorization server. */
export interface UpstreamClient {
  readonly clientId: string;
  readonly secret: string | null;
  readonly authentication: ClientAuthentication;
}
export const clientAuthentications = ['none', 'clientSecretBasic', 'clientSecretPost', 'privateKeyJwt'] as const;
export type ClientAuthentication = (typeof clientAuthentications)[number];

export async function authenticationOf({ authentication, secret }: UpstreamClient): Promise<oauth.ClientAuth> {
  switch (authentication) {
    case 'none':
      return oauth.None();
    case 'clientSecretBasic':
      return clientSecretBasic(secret ?? '');
    case 'clientSecretPost':
      return oauth.ClientSecretPost(secret ?? '');
    case 'privateKeyJwt':
      return oauth.PrivateKeyJwt(await signingKeyOf(secret ?? ''));
  }
}

/**
 * RFC 6749 §2.3.1, encoded as a form is, and no more: the library escapes letters that need it not, such as hyphens, which
 * servers that do not decode take for another client.
 */
function clientSecretBasic(secret: string): oauth.ClientAuth {
  const encoded = (text: string): string => new URLSearchParams([['', text]]).toString().slice(1);
  return (_server, { client_id: clientId }, _body, headers) => {
    const pair = Buffer.from(`${encoded(clientId)}:${encoded(secret)}`).toString('base64');
    headers.set('authorization', `Basic ${pair}`);
  };
}

/** A private key as JWK (RFC 7517); its `kid` names it to the authorization server. */
export const privateJwk = z.discriminatedUnion('kty', [
  z.looseObject({
    kty: z.literal('EC'),
    crv: z.enum(['P-256', 'P-384']),
    d: z.string().min(1),
    kid: z.string().optional(),
  }),
  z.looseObject({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), d: z.string().min(1), kid: z.string().optional() }),
]);

async function signingKeyOf(text: string): Promise<Parameters<typeof oauth.PrivateKeyJwt>[0]> {
  const jwk = privateJwk.parse(JSON.parse(text));
  const algorithm = jwk.kty === 'OKP' ? { name: 'Ed25519' } : { name: 'ECDSA', namedCurve: jwk.crv };
  const { kid, ...bare } = jwk;
  const key = await crypto.subtle.importKey('jwk', { ...bare, key_ops: ['sign'] }, algorithm, false, ['sign']);
  return kid === undefined ? key : { key, kid };
}

import type { TestControlPlane } from '../kit/control-plane.ts';

export const userSchema = 'urn:ietf:params:scim:schemas:core:2.0:User';
export const groupSchema = 'urn:ietf:params:scim:schemas:core:2.0:Group';
export const enterpriseSchema = 'urn:ietf:params:scim:schemas:extension:enterprise:2.0:User';
const patchSchema = 'urn:ietf:params:scim:api:messages:2.0:PatchOp';

export interface ScimAnswer {
  readonly status: number;
  readonly headers: Headers;
  // oxlint-disable-next-line typescript/no-explicit-any -- the request decides the shape of its answer
  readonly body: any;
}

/** An identity provider that provisions by SCIM, as Entra and Okta do. */
export class ScimClient {
  readonly #base: string;
  readonly #token: string;

  constructor(base: string, token: string) {
    this.#base = base;
    this.#token = token;
  }

  async ask(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<ScimAnswer> {
    const response = await fetch(`${this.#base}/scim/v2${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.#token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/scim+json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text === '' ? undefined : JSON.parse(text) };
  }

  get = (path: string, headers: Record<string, string> = {}): Promise<ScimAnswer> =>
    this.ask('GET', path, undefined, headers);
  post = (path: string, body: unknown): Promise<ScimAnswer> => this.ask('POST', path, body);
  put = (path: string, body: unknown, headers?: Record<string, string>): Promise<ScimAnswer> =>
    this.ask('PUT', path, body, headers);
  delete = (path: string): Promise<ScimAnswer> => this.ask('DELETE', path);
  patch = (path: string, operations: readonly object[], headers?: Record<string, string>): Promise<ScimAnswer> =>
    this.ask('PATCH', path, { schemas: [patchSchema], Operations: operations }, headers);

  /** @returns the user as the service shows it */
  async createUser(userName: string, more: object = {}): Promise<{ id: string; meta: { version: string } }> {
    const answer = await this.post('/Users', { schemas: [userSchema], userName, ...more });
    if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
    return answer.body;
  }

  async createGroup(displayName: string, members: readonly string[] = []): Promise<{ id: string }> {
    const body = { schemas: [groupSchema], displayName, members: members.map((value) => ({ value })) };
    const answer = await this.post('/Groups', body);
    if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
    return answer.body;
  }

  async memberIds(groupId: string): Promise<string[]> {
    const { body } = await this.get(`/Groups/${groupId}`);
    return body.members.map(({ value }: { value: string }) => value).sort();
  }
}

/** Lets a directory in and makes it a token. */
export async function createDirectory(
  plane: Pick<TestControlPlane, 'ask' | 'graphqlUrl'>,
  name: string,
  issuer = `https://${name}.idp.example`,
): Promise<{ readonly id: string; readonly secret: string; readonly tokenId: string; readonly client: ScimClient }> {
  const made = await plane.ask(
    'mutation ($name: String!, $issuer: String!) { createScimDirectory(input: { name: $name, issuer: $issuer }) { id } }',
    { name, issuer },
  );
  if (made.errors.length > 0) throw new Error(JSON.stringify(made.errors));
  const { id } = made.data.createScimDirectory;
  const issued = await plane.ask(
    `mutation ($input: CreateScimTokenInput!) { createScimToken(input: $input) { secret scimToken { id } } }`,
    { input: { directoryId: id, name: 'push', expiresAt: new Date(Date.now() + 86_400_000).toISOString() } },
  );
  if (issued.errors.length > 0) throw new Error(JSON.stringify(issued.errors));
  const { secret, scimToken } = issued.data.createScimToken;
  return { id, secret, tokenId: scimToken.id, client: new ScimClient(new URL(plane.graphqlUrl).origin, secret) };
}

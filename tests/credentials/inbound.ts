/** What a client sends besides its key: secrets in all places where clients and proxies put some, none of them for us. */
import { canaryMaker } from '../kit/canaries.ts';
import { Browser, type Shown } from '../oauth/browser.ts';

/** Makes secrets of clients. */
export const canary = canaryMaker();

const places = [
  'a cookie',
  'a cookie that is percent-encoded',
  'X-Api-Key',
  'X-MCP-Auth',
  'Proxy-Authorization',
  'X-Forwarded-Authorization',
  'X-Amz-Security-Token',
  'Private-Token',
  'Authentication',
  'X-Auth-Token',
  'access_token of the query',
  'api_key of the query',
  'baggage of a trace',
  'state of a trace',
] as const;
const secretIn = Object.fromEntries(places.map((place) => [place, canary()])) as Record<
  (typeof places)[number],
  string
>;

/** By where they are put. */
export const inbound: Readonly<Record<string, string>> = secretIn;

const percentEncoded = (text: string): string => encodeURIComponent(text).replaceAll('a', '%61');
const cookies = {
  session: secretIn['a cookie'],
  remember: percentEncoded(secretIn['a cookie that is percent-encoded']),
};
export const cookie = Object.entries(cookies)
  .map(([name, value]) => `${name}=${value}`)
  .join('; ');

/** The trace that a client is in the midst of. */
export const traceId = '0af7651916cd43dd8448eb211c80319c';

/** Headers but for cookies. */
export const besides: Readonly<Record<string, string>> = {
  'x-api-key': secretIn['X-Api-Key'],
  'x-mcp-auth': secretIn['X-MCP-Auth'],
  'proxy-authorization': `Basic ${btoa(`user:${secretIn['Proxy-Authorization']}`)}`,
  'x-forwarded-authorization': `Bearer ${secretIn['X-Forwarded-Authorization']}`,
  'x-amz-security-token': secretIn['X-Amz-Security-Token'],
  'private-token': JSON.stringify({ token: secretIn['Private-Token'] }),
  authentication: `Bearer ${secretIn['Authentication']}`,
  'x-auth-token': secretIn['X-Auth-Token'],
  traceparent: `00-${traceId}-b7ad6b7169203331-01`,
  baggage: `token=${secretIn['baggage of a trace']}`,
  tracestate: secretIn['state of a trace'],
};

const parameters = {
  access_token: secretIn['access_token of the query'],
  api_key: secretIn['api_key of the query'],
};
export const query = Object.entries(parameters)
  .map(([name, value]) => `${name}=${percentEncoded(value)}`)
  .join('&');

/** A URL with them in its query, besides what is there. */
export function carrying(url: string | URL): URL {
  const target = new URL(url);
  target.search = target.search === '' ? query : `${target.search}&${query}`;
  return target;
}

/** A browser that sends them to one origin, and keeps what that shows. */
export class CarryingBrowser extends Browser {
  readonly shown: Shown[] = [];
  readonly #origin: string;

  constructor(origin: string) {
    super();
    this.#origin = origin;
  }

  override async request(
    url: string | URL,
    form?: Readonly<Record<string, string>>,
    headers: Record<string, string> = {},
  ): Promise<Shown> {
    if (new URL(url).origin !== this.#origin) {
      for (const name of Object.keys(cookies)) this.cookies.delete(name);
      return super.request(url, form, headers);
    }
    for (const [name, value] of Object.entries(cookies)) this.cookies.set(name, { value, path: '/' });
    const shown = await super.request(carrying(url), form, { ...headers, ...besides });
    this.shown.push(shown);
    return shown;
  }
}

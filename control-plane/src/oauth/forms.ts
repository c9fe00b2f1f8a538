import { createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { errorPage, type Page } from './pages.ts';

const formBytesMax = 16 * 1024;

/** A request that did not come from a page of ours, or came too late. */
export class Refused extends Error {
  readonly status: number;
  /** Where to go on from; null where only the client can begin anew. */
  readonly backHref: string | null;

  constructor(status: number, message: string, backHref: string | null = null) {
    super(message);
    this.status = status;
    this.backHref = backHref;
  }
}

export function send(response: ServerResponse, status: number, { html, headers }: Page): void {
  response.writeHead(status, headers).end(html);
}

export function redirect(response: ServerResponse, location: string, cookie?: string): void {
  const headers = { location, 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' };
  response.writeHead(303, cookie === undefined ? headers : { ...headers, 'set-cookie': cookie }).end();
}

export function cookieOf({ headers }: IncomingMessage, name: string): string | undefined {
  const pairs = (headers.cookie ?? '').split(';').map((pair) => pair.trim());
  return pairs.find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1);
}

/** How the attributes of a cookie end; one of an issuer with TLS is sent over nothing else. */
export function secureOf(issuer: string): string {
  return issuer.startsWith('https:') ? '; Secure' : '';
}

/** Runs what answers a page; a refusal is a page of its own. */
export async function answering(response: ServerResponse, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused) || response.headersSent) throw error;
    send(response, error.status, errorPage('interaction_refused', error.message, error.backHref));
  }
}

export async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  if (request.headers['content-type']?.split(';')[0] !== 'application/x-www-form-urlencoded') {
    throw new Refused(415, 'Send the form of the page.');
  }
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > formBytesMax) throw new Refused(413, 'The form is too large.');
    chunks.push(chunk);
  }
  return new URLSearchParams(Buffer.concat(chunks).toString('utf8'));
}

/** Forms of our pages: taken from this origin alone, and with a token that the page held. */
export class OwnForms {
  private readonly issuer: string;
  private readonly key: Buffer;

  constructor(issuer: string, key: Buffer) {
    this.issuer = issuer;
    this.key = key;
  }

  /** @param subject what the page belongs to: an interaction or a browser session, whose cookie the caller checks */
  tokenOf(subject: string): string {
    return createHmac('sha256', this.key).update(subject).digest('base64url');
  }

  async read(request: IncomingMessage, subject: string): Promise<URLSearchParams> {
    const { origin } = request.headers;
    const site = request.headers['sec-fetch-site'];
    if (origin !== undefined && origin !== this.issuer) throw new Refused(403, 'The form came from elsewhere.');
    if (site !== undefined && site !== 'same-origin') throw new Refused(403, 'The form came from elsewhere.');
    const form = await readForm(request);
    const given = Buffer.from(form.get('csrf') ?? '');
    const expected = Buffer.from(this.tokenOf(subject));
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
      throw new Refused(403, 'The form is not one of this page.');
    }
    return form;
  }
}

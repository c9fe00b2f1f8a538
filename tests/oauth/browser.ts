export interface Shown {
  readonly status: number;
  readonly text: string;
  readonly headers: Headers;
  /** Where the answer redirects to. */
  readonly location: URL | null;
  readonly url: URL;
}

/** Follows links and submits forms as a browser would, with its cookies; redirects are given back, not followed. */
export class Browser {
  readonly cookies = new Map<string, { value: string; path: string }>();

  /** Where a request leads, and what it shows. */
  async request(
    url: string | URL,
    form?: Readonly<Record<string, string>>,
    headers: Record<string, string> = {},
  ): Promise<Shown> {
    const target = new URL(url);
    const cookie = [...this.cookies]
      .filter(([, { path }]) => target.pathname.startsWith(path))
      .map(([name, { value }]) => `${name}=${value}`)
      .join('; ');
    const response = await fetch(target, {
      method: form === undefined ? 'GET' : 'POST',
      redirect: 'manual',
      headers: {
        ...(cookie === '' ? {} : { cookie }),
        ...(form === undefined ? {} : { origin: target.origin }),
        ...headers,
      },
      ...(form === undefined ? {} : { body: new URLSearchParams(form) }),
    });
    for (const text of response.headers.getSetCookie()) this.#store(text);
    const text = await response.text();
    const location = response.headers.get('location');
    return {
      status: response.status,
      text,
      headers: response.headers,
      location: location === null ? null : new URL(location, target),
      url: target,
    };
  }

  /** Goes on through redirects on the origin; the last page, or the URL on another origin it was sent to. */
  async follow(url: string | URL, form?: Readonly<Record<string, string>>): Promise<Shown> {
    const { origin } = new URL(url);
    let answer = await this.request(url, form);
    let at = new URL(url);
    for (let hops = 0; answer.location !== null && answer.location.origin === origin; hops++) {
      if (hops > 10) throw new Error('too many redirects');
      at = answer.location;
      answer = await this.request(at);
    }
    return { ...answer, url: at };
  }

  #store(text: string): void {
    const [pair = '', ...attributes] = text.split('; ');
    const equals = pair.indexOf('=');
    const name = pair.slice(0, equals);
    const value = pair.slice(equals + 1);
    const path = attributes.find((attribute) => attribute.toLowerCase().startsWith('path='))?.slice(5) ?? '/';
    if (value === '' || attributes.some((attribute) => attribute.includes('1970'))) this.cookies.delete(name);
    else this.cookies.set(name, { value, path });
  }
}

/** Hidden fields and the action of the page's form. */
export function formOf(html: string): { action: string; fields: Record<string, string> } {
  const action = /<form method="post" action="([^"]+)"/.exec(html)?.[1];
  if (action === undefined) throw new Error(`there is no form: ${html.slice(0, 500)}`);
  const fields = [...html.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g)];
  return { action, fields: Object.fromEntries(fields.map(([, name, value]) => [name, value])) };
}

import type { IncomingMessage, ServerResponse } from 'node:http';
import { oauthRoutes } from '@sallyport/schema';
import type { Provider } from 'oidc-provider';
import { ConnectRefused, connectPath, type ConnectionService } from '../credentials/connection.service.ts';
import type { AccountPages, AccountUser } from './account.ts';
import { answering, cookieOf, type OwnForms, redirect, Refused, secureOf, send } from './forms.ts';
import { html, page } from './pages.ts';

/** Leads back here after a login, within this time, in seconds. */
const rememberedS = 600;
const cookieName = 'sallyport_connect';

export interface ConnectOptions {
  readonly issuer: string;
  readonly forms: OwnForms;
  readonly account: AccountPages;
  readonly connections: ConnectionService;
}

/** Where users connect their accounts at upstreams. Only the one whom a link was made for gets further than its first page. */
export class ConnectPages {
  private readonly options: ConnectOptions;

  constructor(options: ConnectOptions) {
    this.options = options;
  }

  async show(provider: Provider, request: IncomingMessage, response: ServerResponse, token: string): Promise<void> {
    await this.answer(response, async () => {
      const user = await this.options.account.userOf(provider, request, response);
      if (user === undefined) {
        redirect(response, this.options.account.loginUrl(), this.cookie(token, rememberedS));
        return;
      }
      const { server, by, isConnected } = await this.options.connections.open(user.ctx, token);
      const csrf = this.options.forms.tokenOf(formOf(user, token));
      if (by === 'login') {
        send(response, 200, loginPage({ title: server.title, userName: user.name, isConnected, token, csrf }));
        return;
      }
      const note = isConnected
        ? [html`<p class="note">Your account is connected already; you may do it again.</p>`]
        : [];
      const host = new URL(server.url).host;
      send(
        response,
        200,
        page(
          'Connect your account',
          html`<p>You are logged in as <strong>${user.name}</strong>.</p>
<p>The gateway wants to call <strong>${server.title}</strong> in your name. You will be sent to the authorization server that
<strong>${host}</strong> names, to allow it there.</p>
${note}
<form method="post" action="${`${connectPath}/${token}`}">
<input type="hidden" name="csrf" value="${csrf}">
<button class="first" type="submit" name="connect" value="yes">Connect</button>
</form>`,
          ['https:', 'http:'],
        ),
      );
    });
  }

  async begin(provider: Provider, request: IncomingMessage, response: ServerResponse, token: string): Promise<void> {
    await this.answer(response, async () => {
      const user = await this.userOf(provider, request, response);
      await this.options.forms.read(request, formOf(user, token));
      const url = await this.options.connections.begin(user.ctx, token, user.subject);
      if (url === undefined)
        redirect(response, this.options.account.loginUrl('login'), this.cookie(token, rememberedS));
      else redirect(response, url.href, this.cookie('', 0));
    });
  }

  /** The browser is back from the authorization server of an upstream. */
  async complete(provider: Provider, request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    await this.answer(response, async () => {
      const user = await this.userOf(provider, request, response);
      const interactionId = await this.options.connections.complete(user.ctx, url, user.subject);
      if (interactionId !== null) {
        redirect(response, interactionPath(interactionId));
        return;
      }
      const done = html`<p>Your account is connected. You may close this page and go on where you were.</p>`;
      send(response, 200, page('Connected', done));
    });
  }

  /** Where a login that began here leads on to; undefined where none did. */
  resumed(request: IncomingMessage): string | undefined {
    const token = cookieOf(request, cookieName);
    return token !== undefined && /^[A-Za-z0-9._-]{1,256}$/.test(token) ? `${connectPath}/${token}` : undefined;
  }

  private cookie(token: string, lifetimeS: number): string {
    const attributes = `Path=/oauth; HttpOnly; SameSite=Lax; Max-Age=${lifetimeS}${secureOf(this.options.issuer)}`;
    return `${cookieName}=${token}; ${attributes}`;
  }

  private async userOf(provider: Provider, request: IncomingMessage, response: ServerResponse): Promise<AccountUser> {
    const user = await this.options.account.userOf(provider, request, response);
    if (user === undefined) throw new Refused(401, 'You are not logged in any longer. Open the link again.');
    return user;
  }

  private answer(response: ServerResponse, work: () => Promise<void>): Promise<void> {
    return answering(response, async () => {
      try {
        await work();
      } catch (error) {
        throw asRefused(error);
      }
    });
  }
}

/** For servers that are called with the user's login at his identity provider: nothing is asked of him but to log in there. */
function loginPage(of: {
  readonly title: string;
  readonly userName: string;
  readonly isConnected: boolean;
  readonly token: string;
  readonly csrf: string;
}): ReturnType<typeof page> {
  const { title, userName, isConnected, token, csrf } = of;
  const who = html`<p>You are logged in as <strong>${userName}</strong>.</p>`;
  if (isConnected) {
    return page(
      'Logged in',
      html`${who}
<p>The gateway can call <strong>${title}</strong> in your name. You may close this page and go on where you were.</p>`,
    );
  }
  return page(
    'Log in again',
    html`${who}
<p>The gateway calls <strong>${title}</strong> with your login at your identity provider, and has none that is good any longer.
Log in again, with your identity provider and not with a code.</p>
<form method="post" action="${`${connectPath}/${token}`}">
<input type="hidden" name="csrf" value="${csrf}">
<button class="first" type="submit" name="login" value="yes">Log in again</button>
</form>`,
  );
}

/** Where a login is gone on with. */
export function interactionPath(id: string): string {
  return oauthRoutes.oauthInteraction.path.replace('{id}', id);
}

/** What a page says of it; anything else as it is. */
export function asRefused(error: unknown): unknown {
  if (!(error instanceof ConnectRefused)) return error;
  const { message, interactionId } = error;
  return new Refused(403, message, interactionId === null ? null : interactionPath(interactionId));
}

function formOf({ subject }: AccountUser, token: string): string {
  return `connect|${subject}|${token}`;
}

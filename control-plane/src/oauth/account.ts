import { createHash, randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { AppError, oauthRoutes } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import type { Provider } from 'oidc-provider';
import { noRights } from '../access/rights.ts';
import { type Context, createContext } from '../context.ts';
import { isUuid } from '../database/mutation.ts';
import { accountPage } from './account-page.ts';
import type { ConnectionService } from '../credentials/connection.service.ts';
import type { ConsentService } from './consent.service.ts';
import { answering, type OwnForms, redirect, Refused, send } from './forms.ts';
import type { LoginCodeService } from './login-code.service.ts';
import { isOwnedRedirect, redirectHost } from './redirect-uri.ts';

/** The client that the page is: it logs users in like any other, and can redeem nothing. */
export const accountClientId = 'sallyport-account';
const path = oauthRoutes.oauthAccount.path;
const rowsPerPage = 50;

/** Registration of that client. Its secret is known to nobody, so the token endpoint gives it nothing. */
export function accountClient(issuer: string) {
  return {
    client_id: accountClientId,
    client_name: 'Your account',
    // In place of a secret: the digest of something that was thrown away.
    client_secret: randomBytes(32).toString('hex'),
    redirect_uris: [`${issuer}${path}`],
    response_types: ['code'],
    grant_types: ['authorization_code'],
    application_type: issuer.startsWith('https:') ? 'web' : 'native',
    token_endpoint_auth_method: 'client_secret_basic',
  } as const;
}

export interface AccountOptions {
  readonly issuer: string;
  readonly forms: OwnForms;
  readonly consents: ConsentService;
  readonly userConnections: Pick<ConnectionService, 'list' | 'serverOf' | 'linkFor' | 'disconnect'>;
  readonly loginCodes: Pick<LoginCodeService, 'user'>;
  /** Where a login leads on to that began on another page. */
  readonly resumed: (request: IncomingMessage) => string | undefined;
  /** Ends what came of the login of a browser session, named by its authentication methods. */
  readonly loggedOut: (amr: readonly string[] | undefined) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Of a user who is logged in in a browser: no role counts on these pages. */
export function contextOf(
  { id: principalId, name }: { readonly id: string; readonly name: string },
  deps: Parameters<typeof createContext>[1],
): Context {
  return createContext({ principalId, name, kind: 'user', keyId: null, ...noRights }, deps);
}

export type AccountUser = NonNullable<Awaited<ReturnType<AccountPages['userOf']>>>;

/** Where users see what they allowed, and withdraw it. Whoever has no browser session logs in first. */
export class AccountPages {
  private readonly options: AccountOptions;

  constructor(options: AccountOptions) {
    this.options = options;
  }

  async show(provider: Provider, request: IncomingMessage, response: ServerResponse, query: URLSearchParams) {
    await answering(response, async () => {
      const user = await this.userOf(provider, request, response);
      if (user === undefined) {
        const isBack = query.has('code') || query.has('error');
        if (isBack) throw new Refused(400, 'The login did not succeed, or the browser takes no cookies from here.');
        redirect(response, this.loginUrl());
        return;
      }
      // What the login added means nothing here, and does not stay in the address.
      if (query.has('code')) {
        redirect(response, this.options.resumed(request) ?? path);
        return;
      }
      const rows = await this.options.consents.list(user.ctx, user.id, pageAfter(query.get('after')));
      const { shown, nextHref } = pageOf(rows, 'after');
      send(
        response,
        200,
        accountPage({
          action: path,
          csrf: this.options.forms.tokenOf(user.subject),
          userName: user.name,
          consents: shown.map((row) => ({
            ...row,
            redirectHost: redirectHost(row.redirectUri),
            isRemembered: isOwnedRedirect(row.redirectUri),
          })),
          nextHref,
          ...(await this.accountsOf(user.ctx, query.get('afterAccount'))),
        }),
      );
    });
  }

  /** Withdraws a consent, disconnects an account, or ends the browser session. */
  async change(provider: Provider, request: IncomingMessage, response: ServerResponse): Promise<void> {
    await answering(response, async () => {
      const user = await this.userOf(provider, request, response);
      if (user === undefined) throw new Refused(401, 'You are not logged in any longer.');
      const form = await this.options.forms.read(request, user.subject);
      const id = form.get('withdraw');
      const accountId = form.get('disconnect');
      if (id !== null) await this.withdraw(user.ctx, id);
      else if (accountId !== null) await this.disconnect(user.ctx, accountId);
      else if (form.has('logout')) await user.endSession();
      else throw new Refused(400, 'The form asks for nothing.');
      redirect(response, path);
    });
  }

  /** One's own alone; another's looks as if it did not exist, and one that is gone already needs no withdrawing. */
  private async withdraw(ctx: Context, id: string): Promise<void> {
    try {
      await this.options.consents.revoke(ctx, { id });
    } catch (error) {
      if (!(error instanceof AppError) || !['NOT_FOUND', 'FORBIDDEN'].includes(error.code)) throw error;
      throw new Refused(404, 'There is no such consent any longer.');
    }
  }

  private async disconnect(ctx: Context, accountId: string): Promise<void> {
    try {
      await this.options.userConnections.disconnect(ctx, { accountId });
    } catch (error) {
      if (!(error instanceof AppError) || error.code !== 'NOT_FOUND') throw error;
      throw new Refused(404, 'There is no such account any longer.');
    }
  }

  private async accountsOf(ctx: Context, after: string | null) {
    const { userConnections } = this.options;
    const { shown, nextHref } = pageOf(await userConnections.list(ctx, {}, pageAfter(after)), 'afterAccount');
    const accounts = [];
    for (const row of shown) {
      const server = await userConnections.serverOf(row);
      const host = new URL(server?.url ?? row.origin).host;
      // Nobody connects what he may not use any more; he may still disconnect it.
      const connectHref = await userConnections.linkFor(ctx, row.serverId).catch(noneWhereNotFound);
      accounts.push({ ...row, title: server?.title ?? host, host, isActive: row.status === 'active', connectHref });
    }
    return { accounts, nextAccountsHref: nextHref };
  }

  /** Who is logged in in this browser; undefined for nobody. */
  async userOf(provider: Provider, request: IncomingMessage, response: ServerResponse) {
    const session = await sessionOf(provider, request, response);
    if (session?.accountId === undefined) return undefined;
    const { id, name } = await this.options.loginCodes.user(session.accountId);
    return {
      id,
      name,
      ctx: contextOf({ id, name }, this.options),
      subject: `account|${session.uid}|${id}`,
      endSession: async () => {
        await session.destroy();
        await this.options.loggedOut(session.amr);
      },
    };
  }

  /** Where to log in; leads back to this page. @param prompt `login`: also for whoever is logged in */
  loginUrl(prompt?: 'login'): string {
    const { issuer } = this.options;
    const url = new URL(oauthRoutes.oauthAuthorize.path, issuer);
    const parameters = {
      client_id: accountClientId,
      redirect_uri: `${issuer}${path}`,
      response_type: 'code',
      scope: 'openid',
      // Of a verifier that nobody has: the code is not for use.
      code_challenge: createHash('sha256').update(randomBytes(32)).digest('base64url'),
      code_challenge_method: 'S256',
      ...(prompt === undefined ? {} : { prompt }),
      state: randomBytes(16).toString('base64url'),
    };
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
    return url.href;
  }
}

function pageAfter(id: string | null) {
  return { limit: rowsPerPage, after: id === null || !isUuid(id) ? undefined : [id] };
}

/** What of the rows is shown, and where the rest is; the parameter is what `pageAfter` reads. */
function pageOf<Row extends { readonly id: string }>(rows: readonly Row[], parameter: 'after' | 'afterAccount') {
  const shown = rows.slice(0, rowsPerPage);
  const next = rows.length > rowsPerPage ? shown.at(-1)?.id : undefined;
  return { shown, nextHref: next === undefined ? undefined : `${path}?${parameter}=${next}` };
}

function noneWhereNotFound(error: unknown): null {
  if (error instanceof AppError && error.code === 'NOT_FOUND') return null;
  throw error;
}

type Session = NonNullable<Awaited<ReturnType<Provider['Session']['findByUid']>>>;

/** The browser session whose signed cookie came along; the library's types do not tell how to find it. */
function sessionOf(provider: Provider, request: IncomingMessage, response: ServerResponse) {
  const library = provider as unknown as {
    createContext(request: IncomingMessage, response: ServerResponse): object;
    Session: { get(ctx: object): Promise<Session | undefined> };
  };
  return library.Session.get(library.createContext(request, response));
}

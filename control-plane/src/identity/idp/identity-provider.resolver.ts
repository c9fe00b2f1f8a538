import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../../context.ts';
import { type ConnectionOf, connectionFrom, PageArguments, pageOf } from '../../graphql-connection.ts';
import {
  CreateIdentityProviderInput,
  DeleteIdentityProviderInput,
  IdentityProvider,
  IdentityProviderConnection,
  RequiredClaim,
  UpdateIdentityProviderInput,
} from './identity-provider.graphql.ts';
import { callbackUrl } from './federated-login.service.ts';
import type { IdentityProviderService } from './identity-provider.service.ts';
import type { IdentityProviderRow } from './identity-provider.tables.ts';

interface Services {
  readonly identityProviders: IdentityProviderService;
  readonly publicUrls: { readonly issuer: string } | undefined;
}
type Answer = Promise<IdentityProviderRow>;

@Resolver(() => IdentityProvider)
export class IdentityProviderResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => IdentityProvider, { description: 'An identity provider by its id.' })
  identityProvider(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the identity provider.' }) id: string,
  ): Answer {
    return this.services.identityProviders.get(ctx, id);
  }

  @Query(() => IdentityProviderConnection, { description: 'Identity providers, oldest first.' })
  async identityProviders(
    @Ctx() ctx: Context,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<IdentityProviderRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.identityProviders.list(ctx, page), page, (row) => [row.id]);
  }

  @Mutation(() => IdentityProvider, { description: 'Lets users log in with an identity provider.' })
  createIdentityProvider(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateIdentityProviderInput, { description: 'The identity provider.' })
    input: CreateIdentityProviderInput,
  ): Answer {
    return this.services.identityProviders.create(ctx, input);
  }

  @Mutation(() => IdentityProvider, { description: 'Changes an identity provider.' })
  updateIdentityProvider(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateIdentityProviderInput, { description: 'The changes.' })
    input: UpdateIdentityProviderInput,
  ): Answer {
    return this.services.identityProviders.update(ctx, input);
  }

  @Mutation(() => IdentityProvider, { description: 'Deletes an identity provider; its users stay.' })
  deleteIdentityProvider(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteIdentityProviderInput, { description: 'Which one.' })
    input: DeleteIdentityProviderInput,
  ): Answer {
    return this.services.identityProviders.delete(ctx, input);
  }

  @FieldResolver(() => Boolean)
  hasClientSecret(@Root() row: IdentityProviderRow): boolean {
    return row.sealedClientSecret !== null;
  }

  @FieldResolver(() => [RequiredClaim])
  requiredClaims(@Root() row: IdentityProviderRow): RequiredClaim[] {
    return Object.entries(row.requiredClaims).map(([name, value]) => ({ name, value }));
  }

  @FieldResolver(() => String, { nullable: true })
  redirectUri(@Root() row: IdentityProviderRow): string | null {
    const { publicUrls } = this.services;
    return publicUrls === undefined ? null : callbackUrl(publicUrls.issuer, row.id);
  }

  @FieldResolver(() => String, { nullable: true })
  backChannelLogoutUri(@Root() row: IdentityProviderRow): string | null {
    const { publicUrls } = this.services;
    return publicUrls === undefined ? null : `${publicUrls.issuer}/oauth/backchannel-logout/${row.id}`;
  }
}

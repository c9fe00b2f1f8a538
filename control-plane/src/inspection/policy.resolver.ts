import { detectorCategories, detectorNames, detectorsVersion, severityMinDefaults } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { labelsFrom } from '../catalog/catalog.graphql.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import type { PolicyRow } from './inspection.tables.ts';
import {
  CreatePolicyInput,
  DeletePolicyInput,
  InspectionDetector,
  PoliciesArguments,
  Policy,
  PolicyConnection,
  PolicyMatch,
  UpdatePolicyInput,
} from './policy.graphql.ts';
import type { PolicyService } from './policy.service.ts';
import type { PolicyTrialService, Trial } from './policy-trial.service.ts';
import { PolicyTrial, TestPolicyArguments } from './verdict.graphql.ts';

interface InspectionServices {
  readonly policies: PolicyService;
  readonly policyTrials: PolicyTrialService;
}

@Resolver(() => Policy)
export class InspectionPolicyResolver {
  private readonly services: InspectionServices;

  constructor(services: InspectionServices) {
    this.services = services;
  }

  @Query(() => Policy, { description: 'A policy by its id.' })
  policy(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the policy.' }) id: string,
  ): Promise<PolicyRow> {
    return this.services.policies.get(ctx, id);
  }

  @Query(() => PolicyConnection, { name: 'policies', description: 'Policies, in the order in which they decide.' })
  async list(
    @Ctx() ctx: Context,
    @Args(() => PoliciesArguments) args: PoliciesArguments,
  ): Promise<ConnectionOf<PolicyRow>> {
    const page = pageOf(args, 2);
    const rows = await this.services.policies.list(ctx, args, page);
    return connectionFrom(rows, page, (row) => [String(row.position), row.id]);
  }

  @Query(() => [InspectionDetector], { description: 'The built-in detectors and the kinds of what they find.' })
  inspectionDetectors(): InspectionDetector[] {
    return detectorNames.map((detector) => ({
      detector,
      version: detectorsVersion,
      categories: detectorCategories[detector],
      severityMin: severityMinDefaults[detector],
    }));
  }

  @Query(() => [PolicyTrial], {
    description:
      'What a policy would do to samples, in their order, or to captured payloads, which it does not show. Nothing is kept ' +
      'of them.',
  })
  testPolicy(@Ctx() ctx: Context, @Args(() => TestPolicyArguments) { input }: TestPolicyArguments): Promise<Trial[]> {
    return this.services.policyTrials.test(ctx, input);
  }

  @Mutation(() => Policy, { description: 'Makes a policy.' })
  createPolicy(
    @Ctx() ctx: Context,
    @Arg('input', () => CreatePolicyInput, { description: 'The policy.' }) input: CreatePolicyInput,
  ): Promise<PolicyRow> {
    return this.services.policies.create(ctx, input);
  }

  @Mutation(() => Policy, { description: 'Changes a policy.' })
  updatePolicy(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdatePolicyInput, { description: 'The changes.' }) input: UpdatePolicyInput,
  ): Promise<PolicyRow> {
    return this.services.policies.update(ctx, input);
  }

  @Mutation(() => Policy, { description: 'Deletes a policy; the audit trail keeps it.' })
  deletePolicy(
    @Ctx() ctx: Context,
    @Arg('input', () => DeletePolicyInput, { description: 'The policy.' }) input: DeletePolicyInput,
  ): Promise<PolicyRow> {
    return this.services.policies.delete(ctx, input);
  }

  @FieldResolver(() => PolicyMatch, { description: 'What it is about; everything if never given.' })
  match(@Root() { match }: PolicyRow): PolicyMatch {
    return { ...match, serverLabels: labelsFrom(match.serverLabels) };
  }
}

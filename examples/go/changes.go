package main

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	runner "github.com/stigmer/runner-service/examples/go/runnerv1"
)

// showChanges lists which files an execution changed, prints the diff and, with undo, puts all of them back as they were:
// all or none, and nothing if somebody else has edited one of them since.
func showChanges(address, id string, undo bool) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client, ctx := runner.NewAgentRunnerServiceClient(connection), outgoing(id)

	list := &runner.ListFileChangesRequest{ExecutionId: id}
	for {
		page, err := client.ListFileChanges(ctx, list)
		if err != nil {
			return err
		}
		for _, change := range page.Changes {
			fmt.Printf("%s %s +%d -%d\n", change.Kind, change.Path, change.LinesAdded, change.LinesRemoved)
		}
		if list.PageToken = page.NextPageToken; list.PageToken == "" {
			break
		}
	}
	diff, err := client.GetDiff(ctx, &runner.GetDiffRequest{ExecutionId: id})
	if err != nil {
		return err
	}
	fmt.Print(diff.Diff)
	if !undo {
		return nil
	}
	done, err := client.RevertChanges(ctx, &runner.RevertChangesRequest{ExecutionId: id})
	if err != nil {
		return err // Aborted: a file is not as the execution left it; FailedPrecondition: it runs, or the sandbox is gone
	}
	fmt.Printf("%d files put back\n", len(done.Reverted))
	return nil
}

// Not compiled here: see README.md.
import PhotosUI
import SwiftUI

struct ContentView: View {
    @State private var chosen: PhotosPickerItem?
    @State private var made: UIImage?
    @State private var problem = ""
    private let cutter = try? Cutter()

    var body: some View {
        VStack {
            if let made {
                Image(uiImage: made).resizable().scaledToFit().background(Color.green)
            }
            Text(problem)
            PhotosPicker("Choose a photo", selection: $chosen, matching: .images)
        }
        .padding()
        .onChange(of: chosen) { item in
            Task {
                guard let data = try? await item?.loadTransferable(type: Data.self),
                    let photo = UIImage(data: data), let cutter
                else {
                    problem = "The photo or the net cannot be read."
                    return
                }
                do {
                    made = try await Task.detached { try cutter.cut(photo) }.value
                    problem = ""
                } catch { problem = error.localizedDescription }
            }
        }
    }
}
